"""Configuration: one TOML file per node, any key overridable from the environment (``SIDECAR_NODE__DSN``).

Every field says its unit, its default and the reason for it. Errors become one :class:`ConfigurationError` line that
names the file and the key, or the environment variable; no value is echoed, because a DSN may hold a password.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from sidecar.core.addresses import checked_address, checked_dsn, duration_ms
from sidecar.core.addresses import is_loopback as is_loopback
from sidecar.core.addresses import redact_dsn as redact_dsn
from sidecar.core.addresses import split_address as split_address
from sidecar.errors import ConfigurationError

MIB = 1024 * 1024
ENVIRONMENT_PREFIX = "SIDECAR_"
ENVIRONMENT_DELIMITER = "__"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts true as 1, TOML does not: `id = true` is a mistake, not node 1.
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is int:
            raise ValueError("must be a whole number, not a boolean")
        return value


Address = Annotated[str, AfterValidator(checked_address)]
"""``host:port``; an IPv6 host stands in brackets."""
Dsn = Annotated[str, AfterValidator(checked_dsn)]
"""A ``postgresql://`` URI, the one form both drivers read."""


NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def _name(text: str) -> str:
    if NAME_PATTERN.fullmatch(text) is None:
        raise ValueError("must be 1 to 63 of a-z, 0-9, _ and -, and start with a letter or digit")
    return text


NodeName = Annotated[str, AfterValidator(_name)]


class NodeSettings(_Section):
    """``[node]``: who this node is."""

    name: Annotated[NodeName, Field(description="unique in the cluster")]
    id: Annotated[int, Field(ge=1, le=1023, description="unique in the cluster; breaks ties of equal hlc")]
    dsn: Annotated[Dsn, Field(repr=False, description="the database beside this sidecar; may hold a password")]
    listen: Annotated[Address, Field(description="where peers connect")] = "127.0.0.1:7101"
    cluster: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$", description="nodes of different clusters refuse each other")
    ] = "default"
    insecure: Annotated[bool, Field(description="plaintext links; allowed on loopback addresses only")] = False
    nice: Annotated[int, Field(ge=0, le=19, description="how far the process stands back for others")] = 5
    """Where the processors are busy, local transactions come first: a commit takes microseconds of a processor, a
    batch of the sidecar milliseconds. 5 leaves a third of an even share, so that a machine which is busy for long does
    not keep it from catching up. 0 competes like any other process."""
    relay: Annotated[bool, Field(description="hand on other nodes' changes, and take them from peers")] = False


class PeerSettings(_Section):
    """``[[peers]]``: one per other node."""

    name: NodeName
    address: Address
    dsn: Annotated[str | None, Field(description="its database, for sidecar join")] = None
    relay: Annotated[bool | None, Field(description="relay with this peer; as in [node] when left out")] = None
    relay_origins: Annotated[tuple[NodeName, ...] | None, Field(description="only these nodes' changes; else all")] = (
        None
    )


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
    batch_transactions_max: Annotated[int, Field(ge=1)] = 2_000
    """Local transactions coalesced into one change set while this node is behind; ten times as many when they write
    fewer rows than that. The peer merges a change set as a whole and holds its row locks for that long: some 20 ms for
    a thousand rows."""
    merge_rows_max: Annotated[int, Field(ge=1)] = 10_000
    """Rows merged in one transaction when several change sets wait; adapts downwards under local load."""
    row_lock_ms: Annotated[int, Field(ge=1)] = 20
    """How long a merge should hold user-row locks; batches adapt to it, so that local commits stay below it."""
    lock_timeout_ms: Annotated[int, Field(ge=1, le=500)] = 20
    """The merge gives way after this wait; far below deadlock_timeout (1 s), so the application never loses."""
    capture_wait_locked_ms: Annotated[int, Field(ge=0, le=500)] = 50
    """How long the lock fallback waits for capture with user rows locked, before it lets go and waits unlocked."""
    merge_function_ms_max: Annotated[int, Field(ge=10, le=3_600_000)] = 2_000
    """A function of merge(fn) that runs longer for the values of one column counts as failed there. A thousand times
    what a cart takes, so that it is not the load of one node that decides; capture waits meanwhile."""
    frame_bytes_max: Annotated[int, Field(ge=64 * 1024)] = 32 * MIB
    """A peer frame above this is refused unread: four times batch_bytes_max, for values that do not compress."""
    link_window_bytes: Annotated[int, Field(ge=64 * 1024)] = 16 * MIB
    """Unmerged bytes a peer may have in flight on one link (credit)."""
    receive_queue_bytes_max: Annotated[int, Field(ge=64 * 1024)] = 64 * MIB
    """Received change sets waiting in memory per origin; a full queue stops reading from the link."""
    spool_bytes_max: Annotated[int, Field(ge=MIB)] = 8 * 1024 * MIB
    """Temporary file space for the large change sets that are received or wait, all together."""
    journal_bytes_max: Annotated[int, Field(ge=MIB)] = 16 * 1024 * MIB
    """Journal kept for peers that are away; beyond it the oldest partition goes and those peers are marked."""
    journal_partition_rows: Annotated[int, Field(ge=16)] = 4096
    """Journal rows per partition; whole partitions are dropped once every peer has acknowledged them."""
    journal_partition_bytes_max: Annotated[int, Field(ge=64 * 1024)] = 256 * MIB
    """A partition ends with the change set that brings it to this size, whatever its rows: the newest partition is
    never dropped, so this is how far the journal can exceed journal_bytes_max (by a sixty-fourth)."""
    conflict_rows_max: Annotated[int, Field(ge=1)] = 1_000_000
    """Conflict records kept; the oldest go first."""
    conflict_age_days: Annotated[int, Field(ge=1)] = 30
    """Age after which conflict records go."""
    peers_max: Annotated[int, Field(ge=1, le=1023)] = 64
    """Links this node accepts."""


class TimingSettings(_Section):
    """``[timing]``: intervals and delays."""

    change_set_ms: Annotated[int, Field(ge=0, le=1_000)] = 10
    """Least distance between change sets while nothing waits for capture. A change set costs some milliseconds of
    processor and two log flushes on all nodes together, whether it holds one transaction or ten; a transaction on a
    quiet node is sent at once."""
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
    """A peer whose clock is further ahead than this has its link held. Also accepted as ``max_clock_drift``, in
    milliseconds or with a unit (``"500ms"``), at the top of the file or in [node]."""
    clock_alarm_ms: Annotated[int, Field(ge=1)] = 10
    """A peer whose clock differs by more is reported: NTP keeps clocks within a few milliseconds, so something is wrong
    long before changes wait."""
    loop_silent_ms_max: Annotated[int, Field(ge=1_000)] = 60_000
    """A loop without a sign of life for this long is stuck, and /healthz says so. Its longest legitimate wait is the
    statement of one full part, seconds on a slow disk."""
    status_interval_ms: Annotated[int, Field(ge=100)] = 10_000
    """Standby status to the walsender at least this often; well below wal_sender_timeout (60 s)."""
    shutdown_ms_max: Annotated[int, Field(ge=100)] = 8_000
    """A clean stop gives up waiting after this, so SIGTERM ends below 10 s."""

    @field_validator("max_clock_drift_ms", mode="before")
    @classmethod
    def _drift_with_unit(cls, value: Any) -> Any:
        return duration_ms(value) if isinstance(value, str) and not value.strip().isdigit() else value


class LabSettings(_Section):
    """``[lab]``: for experiments only; nothing here belongs into the configuration of a node that matters."""

    clock_skew_ms: Annotated[int, Field(ge=-316_224_000_000, le=316_224_000_000)] = 0
    """Milliseconds added to the wall clock wherever the node reads it, commit times included: tests run nodes with
    wrong clocks on one machine. At most ten years either way: a clock whose battery is dead is as wrong as that."""

    send_twice: bool = False
    """Send every change set of one part twice: whatever a broken link may repeat must change nothing."""


# Keys that may stand outside their home, because that is where people look for them: (path, home).
ALIASES: tuple[tuple[tuple[str, ...], tuple[str, str]], ...] = (
    (("insecure",), ("node", "insecure")),
    (("tls", "insecure"), ("node", "insecure")),
    (("max_clock_drift",), ("timing", "max_clock_drift_ms")),
    (("node", "max_clock_drift"), ("timing", "max_clock_drift_ms")),
)


def _canonical(document: dict[str, Any], *, unambiguous: bool) -> dict[str, Any]:
    """A copy with every alias moved to its home. ``unambiguous``: a key that is set at two places is an error (the
    file); otherwise the alias wins (it comes from the environment). A [tls] with nothing but insecure is no [tls]."""
    out: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in document.items()}
    for path, home in ALIASES:
        parent = out if len(path) == 1 else out.get(path[0])
        if not isinstance(parent, dict) or path[-1] not in parent:
            continue
        value = parent.pop(path[-1])
        section = out.setdefault(home[0], {})
        if not isinstance(section, dict):
            continue
        if unambiguous and home[1] in section:
            raise ValueError(f"{'.'.join(path)}: the same setting stands in the file twice; keep one")
        section[home[1]] = value
        if path[0] == "tls" and not parent:
            del out["tls"]
    return out


class Settings(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=ENVIRONMENT_DELIMITER,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    node: NodeSettings
    peers: tuple[PeerSettings, ...] = ()
    http: HttpSettings | None = None
    tls: TlsSettings | None = None
    limits: LimitSettings = LimitSettings()
    timing: TimingSettings = TimingSettings()
    lab: LabSettings = LabSettings()

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

    @model_validator(mode="before")
    @classmethod
    def _without_aliases(cls, document: Any) -> Any:
        return _canonical(document, unambiguous=False) if isinstance(document, dict) else document

    @field_validator("peers")
    @classmethod
    def _unique_peers(cls, peers: tuple[PeerSettings, ...]) -> tuple[PeerSettings, ...]:
        for attribute in ("name", "address"):
            seen: set[str] = set()
            for peer in peers:
                value = getattr(peer, attribute)
                if value in seen:
                    raise ValueError(f"{attribute} {value!r} is listed twice; give every peer once")
                seen.add(value)
        return peers

    @model_validator(mode="after")
    def _coherent(self) -> Settings:
        if any(peer.name == self.node.name for peer in self.peers):
            raise ValueError(f"peers: {self.node.name!r} is this node's own name; list only the other nodes")
        if any(peer.address == self.node.listen for peer in self.peers):
            raise ValueError(f"peers: {self.node.listen} is this node's own address; list only the other nodes")
        if len(self.peers) > self.limits.peers_max:
            raise ValueError(f"peers: {len(self.peers)} peers are more than limits.peers_max = {self.limits.peers_max}")
        if self.http is not None and self.http.listen == self.node.listen:
            raise ValueError(f"http.listen: {self.http.listen} is taken by node.listen; choose another port")
        if self.limits.frame_bytes_max < self.limits.batch_bytes_max:
            raise ValueError("limits.frame_bytes_max: is below limits.batch_bytes_max, so a full batch fits no frame")
        if self.timing.link_silent_ms <= self.timing.heartbeat_ms:
            raise ValueError("timing.link_silent_ms: must be above timing.heartbeat_ms, or every idle link is cut")
        self._check_plaintext()
        return self

    def _check_plaintext(self) -> None:
        if self.tls is not None:
            if self.node.insecure:
                raise ValueError("node.insecure: is set although [tls] names certificates; keep one of them")
            return
        addresses = [("node.listen", self.node.listen)]
        addresses += [(f"peers.{index}.address", peer.address) for index, peer in enumerate(self.peers)]
        for key, address in addresses:
            if not is_loopback(split_address(address)[0]):
                raise ValueError(f"{key}: {address} is not a loopback address; add a [tls] section with ca, cert, key")
        if self.peers and not self.node.insecure:
            raise ValueError("tls: section is missing; add it, or set insecure = true for plaintext on loopback")


def _variable_of(path: str) -> str | None:
    """The environment variable that set the key with this dotted path, if one did."""
    present = {name.upper(): name for name in os.environ}
    parts = path.split(".")
    homes = [parts, *(list(alias) for alias, home in ALIASES if list(home) == parts)]
    for keys in homes:
        # A whole section may come from one variable as JSON, so its prefixes count too.
        for length in range(len(keys), 0, -1):
            name = present.get(ENVIRONMENT_PREFIX + ENVIRONMENT_DELIMITER.join(keys[:length]).upper())
            if name is not None:
                return name
    return None


# pydantic's wording for programmers, said for people who edit a TOML file.
_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "model_type": "must be a section",
    "model_attributes_type": "must be a section",
    "tuple_type": "must be a list of sections; write [[peers]]",
    "string_type": "must be a string in quotes",
    "string_pattern_mismatch": "must be 1 to 63 of A-Z, a-z, 0-9, _ and -",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "path_type": "must be a file name in quotes",
}


def _lines(error: ValidationError, path: Path) -> list[str]:
    """One line per problem: where (the variable or the file and key), then what."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        key = ".".join(str(part) for part in problem["loc"])
        text = _MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        if not key and ": " in text:
            key, text = text.split(": ", 1)
        text = text.replace("Input should be", "must be")
        variable = _variable_of(key) if problem["type"] != "missing" else None
        lines.append(f"{variable}: {text}" if variable else f"{path}: {key}: {text}" if key else f"{path}: {text}")
    return lines


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if f"{ENVIRONMENT_PREFIX}NODE__NAME" in os.environ:
            return {}  # a container may be configured by its environment alone
        raise ConfigurationError(
            f"configuration file {path} does not exist", mend="name it with -c node.toml"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text", mend="name a TOML file with -c node.toml") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", mend="name it with -c node.toml") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{path} is not valid TOML: {error}", mend="see the README's configuration section"
        ) from None


def load(path: Path) -> Settings:
    """Read and validate the file, the environment laid over it; raises :class:`ConfigurationError` with one line.

    The certificate files of [tls] are relative to the folder of the file.
    """
    document = _read(path)
    known = [*Settings.model_fields, *(alias[0] for alias, _ in ALIASES if len(alias) == 1)]
    for key in document:
        if key not in known:
            raise ConfigurationError(f"{path}: unknown section or key {key!r}", mend=f"known: {', '.join(known)}")
    for name in environment_names():
        section, delimiter, _ = name[len(ENVIRONMENT_PREFIX) :].lower().partition(ENVIRONMENT_DELIMITER)
        if delimiter and section not in Settings.model_fields:
            raise ConfigurationError(
                f"{name}: there is no section {section!r}", mend=f"known: {', '.join(Settings.model_fields)}"
            )
    try:
        document = _canonical(document, unambiguous=True)
        if isinstance(tls := document.get("tls"), dict):
            document["tls"] = {k: path.parent / v if isinstance(v, str) else v for k, v in tls.items()}
        settings = Settings(**document)
    except ValidationError as error:
        lines = _lines(error, path)
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise ConfigurationError(lines[0] + more, mend="see the README's configuration section") from None
    except SettingsError as error:
        # The library names the field only, and keeps the text out of its message.
        section = re.sub(r'.*field "(\w+)".*', r"\1", str(error), flags=re.DOTALL)
        name = _variable_of(section) or "environment"
        raise ConfigurationError(f"{name}: is not valid JSON", mend="a whole section is given as JSON") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    for key, file in settings.tls.model_dump().items() if settings.tls else ():
        if not file.is_file():
            where = _variable_of(f"tls.{key}") or f"{path}: tls.{key}"
            raise ConfigurationError(f"{where}: {file} does not exist", mend="name a PEM file")
    return settings


def environment_names() -> list[str]:
    """The environment variables that take part, for messages."""
    return sorted(name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX))
