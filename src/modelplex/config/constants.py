"""Choices that are made once, and that nobody needs to change: names of replaceable parts, times, limits."""

# Names that a user may choose, and where each is implemented.
ENGINES = {
    "local": "modelplex.engines.local:LocalEngine",
    "inline": "modelplex.engines.inline:InlineEngine",
    "ray": "modelplex.engines.ray:RayEngine",
}

EVICTION_POLICIES = {
    "lru": "modelplex.core.eviction:LRU",
    "gdsf": "modelplex.core.eviction:GDSF",
}

# Loaders of files by name, and which of them an ending means. Files of these endings that more than one loader could
# mean (".json", ".txt", ".bin") are left out: their loader is to be named.
LOADERS = {
    "safetensors": "modelplex.loaders.safetensors:load",
    "safetensors-torch": "modelplex.loaders.safetensors:load_torch",
    "torch": "modelplex.loaders.torch:load",
    "torchscript": "modelplex.loaders.torch:load_script",
    "torch-export": "modelplex.loaders.torch:load_exported",
    "onnx": "modelplex.loaders.onnx:load",
    "skops": "modelplex.loaders.skops:load",
    "joblib": "modelplex.loaders.pickles:load_joblib",
    "pickle": "modelplex.loaders.pickles:load",
    "xgboost": "modelplex.loaders.boosters:load_xgboost",
    "lightgbm": "modelplex.loaders.boosters:load_lightgbm",
    "mlflow": "modelplex.loaders.mlflow:load",
}
LOADER_ENDINGS = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".pt2": "torch-export",
    ".onnx": "onnx",
    ".skops": "skops",
    ".joblib": "joblib",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".ubj": "xgboost",
    ".lgb": "lightgbm",
    "/": "mlflow",  # a folder
}

# What answers who calls the deployments of another program's system.
FOLLOW = "modelplex.follower:follow"

# What answers the requests of protocols of other systems in a replica (`runtime.naming` has the names).
DOORS = {
    "-/v2": "modelplex.protocols.rest:Rest",
    "-/sagemaker": "modelplex.protocols.sagemaker:SageMaker",
    "-/openai": "modelplex.protocols.openai:OpenAI",
}

# What answers clients of the Open Inference Protocol, and what reads their messages of gRPC; both need numpy.
INFERENCE = "modelplex.protocols.inference:Inference"
GRPC_INFERENCE = "modelplex.protocols.grpc_inference:answer"

# Names of sockets in a system's folder. They do not end as those of replicas and proxies do.
CONTROL = "control"
ADMIN = "admin"

# What the name of a system on a Ray cluster begins with; the rest is the name of the actor of its controller.
RAY = "ray:"

# Models that one replica holds at a time for each loader, unless the loader says otherwise.
MAX_NUM_MODELS_PER_REPLICA = 3

# How often it is asked what an alias of a model stands for, how long the answer may take, and how many are asked for at
# a time, so that a store that hangs does not take all threads.
RESOLVE_INTERVAL_S = 10.0
RESOLVE_TIMEOUT_S = 10.0
RESOLVES_MAX = 8

# A failed load is not tried again for this long at first, doubling with each failure up to the maximum.
LOAD_BACKOFF_S = 0.5
LOAD_BACKOFF_MAX_S = 60.0

# What a router expects before it has seen any load or request of a deployment.
EXPECTED_LOAD_S = 1.0
EXPECTED_SERVICE_S = 0.05

# A request waits so long for a deployment that has no replica, which may be about to start, before it is a 503.
NO_REPLICA_WAIT_S = 30.0

# The same for one whose replicas go when nothing is asked for: the request itself has the next one started.
FROM_ZERO_WAIT_S = 300.0

# A replica that dies is replaced at once, and later each time if it keeps dying; one that lived so long starts afresh.
RESTART_BACKOFF_S = 0.1
RESTART_BACKOFF_MAX_S = 10.0
RESTART_FORGET_S = 30.0

# A replica that is to be replaced takes requests for so long beside its successor, so that all routers have met that.
HANDOVER_S = 1.0

# A machine whose last replica is gone keeps its proxies for so long: another replica may come.
PROXY_LINGER_S = 30.0

# What processes may take to register with a controller that takes the place of one that has died.
REGISTER_S = 2.0

# What a replica may take to load the models that it takes over, before it is ready all the same.
WARM_UP_S = 120.0

# Models that metrics have series of their own for, on one page: a system may have a hundred thousand.
METRICS_MODELS_MAX = 100

# Longer than any replica needs for its own end; past it, it is killed.
STOP_MARGIN_S = 2.0
