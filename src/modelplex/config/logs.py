"""What is written to the logs, and how."""

from dataclasses import dataclass

from modelplex.config.checks import check_choice

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """The logs of a deployment's replicas.

    Attributes:
        log_level: lines below it are not written: "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL".
        encoding: "TEXT", or "JSON" for an object a line.
        logs_dir: the folder of the log files; one for the run unless given.
        enable_access_log: whether the beginning and the end of each request are lines of the log.
    """

    log_level: str = "INFO"
    encoding: str = "TEXT"
    logs_dir: str | None = None
    enable_access_log: bool = True

    def __post_init__(self) -> None:
        check_choice("log_level", self.log_level, LEVELS)
        check_choice("encoding", self.encoding, ("TEXT", "JSON"))
        check_choice("enable_access_log", self.enable_access_log, (True, False))
        if self.logs_dir is not None and (not isinstance(self.logs_dir, str) or not self.logs_dir):
            raise ValueError(f"logs_dir must be a folder's path, got {self.logs_dir!r}.")
