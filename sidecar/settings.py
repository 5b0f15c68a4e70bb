"""Configuration: one TOML file per node, any key overridable from the environment (``SIDECAR_NODE__DSN``).

Every field says its unit, its default and the reason for it. Errors become one :class:`ConfigurationError` line.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sidecar.errors import ConfigurationError

MIB = 1024 * 1024
ENVIRONMENT_PREFIX = "SIDECAR_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$")]
"""``host:port``; an IPv6 host stands in brackets."""


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` to its parts."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine; names other than localhost count as remote."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class NodeSettings(_Section):
    """``[node]``: who this node is."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="unique in the cluster")]
    id: Annotated[int, Field(ge=1, le=1023, description="unique in the cluster; breaks ties of equal hlc")]
    dsn: Annotated[str, Field(min_length=1, description="the database beside this sidecar")]
    listen: Annotated[Address, Field(description="where peers connect")] = "127.0.0.1:7101"
    cluster: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$", description="nodes of different clusters refuse each other")
    ] = "default"
    insecure: Annotated[bool, Field(description="plaintext links; allowed on loopback addresses only")] = False


class PeerSettings(_Section):
    """``[[peers]]``: one per other node."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    address: Address


class HttpSettings(_Section):
    """``[http]``: health, metrics and status; no listener without this section."""

    listen: Address = "127.0.0.1:8101"


class TlsSettings(_Section):
    """``[tls]``: mutual TLS between peers (PEM files)."""

    ca: Path
    cert: Path
    key: Path


class LimitSettings(_Section):
    """``[limits]``: every bound of the sidecar, with its unit in its name."""

    batch_rows_max: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Rows of one part of a change set. Ten thousand rows merge in some 200 ms, the most a link should be held."""
    batch_bytes_max: Annotated[int, Field(ge=64 * 1024)] = 8 * MIB
    """Decoded bytes of one part. Keeps a node below 512 MB with several parts in flight on each link."""
    batch_transactions_max: Annotated[int, Field(ge=1)] = 20_000
    """Local transactions coalesced into one change set; bounds what a crash decodes again."""
    merge_rows_max: Annotated[int, Field(ge=1)] = 10_000
    """Rows merged in one transaction when several change sets wait; adapts downwards under local load."""
    row_lock_ms: Annotated[int, Field(ge=1)] = 20
    """How long a merge should hold user-row locks; batches adapt to it, so that local commits stay below it."""
    lock_timeout_ms: Annotated[int, Field(ge=1, le=500)] = 20
    """The merge gives way after this wait; far below deadlock_timeout (1 s), so the application never loses."""
    capture_wait_locked_ms: Annotated[int, Field(ge=0, le=500)] = 50
    """How long the lock fallback waits for capture with user rows locked, before it lets go and waits unlocked."""
    frame_bytes_max: Annotated[int, Field(ge=64 * 1024)] = 32 * MIB
    """A peer frame above this is refused unread: four times batch_bytes_max, for values that do not compress."""
    link_window_bytes: Annotated[int, Field(ge=64 * 1024)] = 16 * MIB
    """Unmerged bytes a peer may have in flight on one link (credit)."""
    receive_queue_bytes_max: Annotated[int, Field(ge=64 * 1024)] = 64 * MIB
    """Received change sets waiting in memory per origin; a full queue stops reading from the link."""
    spool_bytes_max: Annotated[int, Field(ge=MIB)] = 8 * 1024 * MIB
    """Temporary file space for the parts of one unfinished change set."""
    journal_bytes_max: Annotated[int, Field(ge=MIB)] = 16 * 1024 * MIB
    """Journal kept for peers that are away; beyond it the oldest partition goes and those peers are marked."""
    journal_partition_rows: Annotated[int, Field(ge=16)] = 4096
    """Journal rows per partition; whole partitions are dropped once every peer has acknowledged them."""
    conflict_rows_max: Annotated[int, Field(ge=1)] = 1_000_000
    """Conflict records kept; the oldest go first."""
    conflict_age_days: Annotated[int, Field(ge=1)] = 30
    """Age after which conflict records go."""
    peers_max: Annotated[int, Field(ge=1, le=1023)] = 64
    """Links this node accepts."""


class TimingSettings(_Section):
    """``[timing]``: intervals and delays."""

    heartbeat_ms: Annotated[int, Field(ge=10)] = 250
    """Closed-hlc heartbeat on every link."""
    link_silent_ms: Annotated[int, Field(ge=100)] = 5_000
    """A link that says nothing for this long is cut and dialled again."""
    reconnect_ms_max: Annotated[int, Field(ge=100)] = 5_000
    """Upper bound of the reconnect backoff (starts at 100 ms, doubles, full jitter)."""
    retry_ms_max: Annotated[int, Field(ge=10)] = 5_000
    """Upper bound of the merge retry backoff."""
    catalog_poll_ms: Annotated[int, Field(ge=50)] = 1_000
    """How often annotations are looked at for new tables."""
    max_clock_drift_ms: Annotated[int, Field(ge=1)] = 500
    """A peer whose clock is further ahead than this has its link held."""
    status_interval_ms: Annotated[int, Field(ge=100)] = 10_000
    """Standby status to the walsender at least this often; well below wal_sender_timeout (60 s)."""
    shutdown_ms_max: Annotated[int, Field(ge=100)] = 8_000
    """A clean stop gives up waiting after this, so SIGTERM ends below 10 s."""


class Settings(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    node: NodeSettings
    peers: tuple[PeerSettings, ...] = ()
    http: HttpSettings | None = None
    tls: TlsSettings | None = None
    limits: LimitSettings = LimitSettings()
    timing: TimingSettings = TimingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file (which arrives as init arguments)."""
        return env_settings, init_settings

    @field_validator("peers")
    @classmethod
    def _unique_peers(cls, peers: tuple[PeerSettings, ...]) -> tuple[PeerSettings, ...]:
        names = [peer.name for peer in peers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"peer {name!r} is listed twice; give every peer once")
        return peers

    @model_validator(mode="after")
    def _coherent(self) -> Settings:
        if any(peer.name == self.node.name for peer in self.peers):
            raise ValueError(f"peer {self.node.name!r} has this node's own name; list only the other nodes")
        if self.tls is None and self.peers:
            addresses = [self.node.listen, *(peer.address for peer in self.peers)]
            remote = [a for a in addresses if not is_loopback(split_address(a)[0])]
            if remote:
                raise ValueError(f"{remote[0]} is not a loopback address; add a [tls] section with ca, cert and key")
            if not self.node.insecure:
                raise ValueError("no [tls] section; add one, or set insecure = true in [node] for loopback links")
        return self


def _first_line(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {message}{more}" if where else f"{message}{more}"


def load(path: Path) -> Settings:
    """Read and validate the file; raises :class:`ConfigurationError` with one line."""
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"configuration file {path} does not exist", mend="name it with -c node.toml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{path} is not valid TOML: {error}", mend="see the README's configuration section"
        ) from None
    unknown = [key for key in document if key not in Settings.model_fields]
    if unknown:
        raise ConfigurationError(
            f"{path}: unknown section or key {unknown[0]!r}", mend=f"known: {', '.join(Settings.model_fields)}"
        )
    try:
        return Settings(**document)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_first_line(error)}") from None


def environment_names() -> list[str]:
    """The environment variables that take part, for messages."""
    return sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX))
