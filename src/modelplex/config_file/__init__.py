"""The configuration file: Ray Serve's YAML, with what multiplexing needs; everything wrong with it said at once."""

from modelplex.config_file.reading import read_file as read_file
from modelplex.config_file.reading import read_text as read_text
from modelplex.config_file.settings import ApplicationConfig as ApplicationConfig
from modelplex.config_file.settings import DeploymentOverride as DeploymentOverride
from modelplex.config_file.settings import RuntimeEnv as RuntimeEnv
from modelplex.config_file.settings import SystemConfig as SystemConfig
