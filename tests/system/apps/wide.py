"""The models of `many`, in eight replicas."""

from many import Deployed

eight = Deployed.options(num_replicas=8).bind()
