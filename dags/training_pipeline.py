"""`<feature set>_training`: trains every feature set daily, or when someone asks for it."""

from airflow.sdk import DAG

from dags.chain import (
    TRAINING_PARAMS,
    default_args,
    describe,
    trainable_plans,
    training_chain,
)
from features.plan import Plan


def training_dag(plan: Plan) -> DAG:
    """The DAG of one feature set."""
    with DAG(
        dag_id=f"{plan.name}_training",
        description=f"Train {plan.name} on the lake's history and promote what is better.",
        doc_md=describe(plan, "Runs daily and by hand: press *Trigger* to set the parameters."),
        schedule="@daily",
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        default_args=default_args(plan),
        params=TRAINING_PARAMS,
        tags=["penstock", plan.name, "training"],
    ) as dag:
        training_chain(plan)
    return dag


for plan in trainable_plans():
    dag = training_dag(plan)
    globals()[dag.dag_id] = dag
