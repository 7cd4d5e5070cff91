"""The model of daemon.toml: what concerns the daemon and no single cluster. All of it has defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from replicator.policy import addresses, values
from replicator.policy.model import Table
from replicator.policy.secrets import SecretRef


class ApiPolicy(Table):
    """The daemon's HTTP interface."""

    listen: Annotated[str, addresses.LISTEN] = Field(
        default="127.0.0.1:8009", description="status, metrics and health checks"
    )
    token: Annotated[SecretRef | None, values.SECRET] = Field(
        default=None, description="asked for as a bearer token, but not by the health checks; absent: nobody is asked"
    )

    @property
    def host(self) -> str:
        """The host part of `listen`."""
        return addresses.split_listen(self.listen)[0]

    @property
    def port(self) -> int:
        """The port part of `listen`."""
        return addresses.split_listen(self.listen)[1]


class LogPolicy(Table):
    """The log on standard error."""

    format: Literal["json", "text"] = Field(default="json", description="one JSON object a line, or words for people")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="the least that is written")


class StatePolicy(Table):
    """What may be lost and costs only time."""

    directory: Annotated[Path, values.PATH] = Field(
        default="/var/lib/replicator/state",
        validate_default=True,
        description="caches, pins, locks; only its owner reads it",
    )


class DaemonPolicy(Table):
    """daemon.toml, beside the clusters' policies; it may be absent."""

    api: ApiPolicy = Field(default_factory=ApiPolicy, description="the HTTP interface")
    log: LogPolicy = Field(default_factory=LogPolicy, description="the log")
    state: StatePolicy = Field(default_factory=StatePolicy, description="local state")

    _path: Path | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        """Remember the file; it is a fact about the policy, not one of its keys."""
        if context and "path" in context:
            self._path = context["path"]

    @property
    def path(self) -> Path | None:
        """The file it came from; None when all are defaults."""
        return self._path
