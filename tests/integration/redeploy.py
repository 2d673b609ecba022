"""Deploys a configuration, as JSON on stdin, to the running cluster: what `serve deploy` does, without its dashboard."""

from __future__ import annotations

import json
import sys

import ray
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from tests.integration.driver import CONNECTED


def main() -> None:
    ray.init(namespace="serve", log_to_driver=False)
    client = _get_global_client()
    assert client is not None, "Serve does not run"
    print(CONNECTED, flush=True)
    client.deploy_apps(ServeDeploySchema.model_validate(json.load(sys.stdin)))


if __name__ == "__main__":
    main()
