"""Dagster's webserver for auditors: read-only, and without what `--read-only` still lets through.

Dagster's `--read-only` takes every permission away, but a mutation that asks for none runs all the same: in
1.13 two, which write small files of the server itself; later versions may add others. Here none is run.
Nor is the output of processes shown: it is whatever libraries print, and nobody has checked it for rows of
subjects.

    python -m jobs.uis.auditors --port 3002 --path-prefix /audit
"""

import argparse
from collections.abc import Collection
from typing import Any, NoReturn

import uvicorn
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from graphql import (
    ASTValidationRule,
    FieldNode,
    GraphQLError,
    GraphQLFormattedError,
    OperationDefinitionNode,
    OperationType,
    parse,
    validate,
)
from starlette.exceptions import HTTPException
from starlette.requests import Request

UNCHECKED_OUTPUT = "capturedLogs"


class LooksOnly(ASTValidationRule):
    """Refuses a document with a mutation, or that asks for the output of a process, before it is run."""

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> None:
        if node.operation is OperationType.MUTATION:
            self.report_error(GraphQLError("Auditors look: nothing is changed from here.", node))

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        if node.name.value == UNCHECKED_OUTPUT:
            self.report_error(GraphQLError("What processes printed is not shown to auditors.", node))


class AuditorsWebserver(DagsterWebserver):
    """Dagster's webserver with the rule above for queries and for subscriptions, and without downloads."""

    async def _refuse(self, request: Request) -> NoReturn:
        raise HTTPException(403)

    download_captured_logs_endpoint = download_notebook = download_debug_file_endpoint = _refuse
    report_asset_materialization_endpoint = report_asset_check_endpoint = _refuse
    report_asset_observation_endpoint = _refuse

    def build_graphql_validation_rules(self) -> Collection[type[ASTValidationRule]]:
        return [*super().build_graphql_validation_rules(), LooksOnly]

    async def execute_graphql_subscription(self, *args: Any, query: str, **kwargs: Any) -> Any:
        if problem := self._refused(query):
            return None, problem
        return await super().execute_graphql_subscription(*args, query=query, **kwargs)

    def _refused(self, query: str) -> GraphQLFormattedError | None:
        # Dagster holds only queries against the rules above, not what comes by WebSocket.
        try:
            errors = validate(self._graphene_schema.graphql_schema, parse(query), [LooksOnly])
        except GraphQLError as e:
            return e.formatted
        return errors[0].formatted if errors else None


def main() -> None:
    """Serves the workspace until it is stopped; on the loopback interface, unless told otherwise."""
    parser = argparse.ArgumentParser(description="Dagster's webserver for auditors.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--path-prefix", default="")
    parser.add_argument("--workspace", default="workspace.yaml")
    asked = parser.parse_args()
    with (
        DagsterInstance.get() as instance,
        WorkspaceProcessContext(
            instance, WorkspaceFileTarget([asked.workspace]), version=__version__, read_only=True
        ) as workspace,
    ):
        app = AuditorsWebserver(workspace, asked.path_prefix, live_data_poll_rate=2000).create_asgi_app()
        uvicorn.run(app, host=asked.host, port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
