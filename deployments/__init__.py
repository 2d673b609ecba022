"""Ray Serve deployments of the streaming service: thin shells around `app` and `deployments.engine`."""
