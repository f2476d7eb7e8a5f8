"""Run in a process of its own: imports the DAG files and prints what they hold as JSON."""

import importlib
import json
import sys

from airflow.sdk import DAG

FILES = ("dags.training_pipeline", "dags.retrain_on_drift")


def described(dag: DAG) -> dict[str, object]:
    return {
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "doc_md": dag.doc_md,
        "tags": sorted(dag.tags),
        "params": {name: dag.params.get_param(name).description for name in dag.params},
        "tasks": {
            task.task_id: {
                "upstream": sorted(task.upstream_task_ids),
                "owner": task.owner,
                "retries": task.retries,
                "timeout_s": task.execution_timeout and task.execution_timeout.total_seconds(),
            }
            for task in dag.tasks
        },
    }


def main() -> None:
    found = {}
    for name in FILES:
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, DAG):
                found[value.dag_id] = described(value)
    modules = sorted({module.partition(".")[0] for module in sys.modules})
    print(json.dumps({"dags": found, "modules": modules}))


if __name__ == "__main__":
    main()
