"""The same core under a virtual clock: workloads, a world of replicas and routers, baselines, the capacity planner."""
