"""Every option and its default, once: what may be given, and what is said of what may not."""

from modelplex.config.admin import ADMIN_PORT as ADMIN_PORT
from modelplex.config.admin import AdminOptions as AdminOptions
from modelplex.config.autoscaling import AutoscalingConfig as AutoscalingConfig
from modelplex.config.cache import CacheOptions as CacheOptions
from modelplex.config.checks import *  # noqa: F403
from modelplex.config.constants import *  # noqa: F403
from modelplex.config.deployment import BackpressureConfig as BackpressureConfig
from modelplex.config.deployment import DeploymentConfig as DeploymentConfig
from modelplex.config.deployment import RequestRouterConfig as RequestRouterConfig
from modelplex.config.grpc import GRPCOptions as GRPCOptions
from modelplex.config.http import HTTPOptions as HTTPOptions
from modelplex.config.logs import LoggingConfig as LoggingConfig
from modelplex.config.multiplexing import MultiplexingConfig as MultiplexingConfig
from modelplex.config.tenants import TenantConfig as TenantConfig
