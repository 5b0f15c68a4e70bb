"""Where merge vectors come from; "derived" names the source whose rule a vector applies to another case."""

from __future__ import annotations

_SHAPIRO = "Shapiro, Preguica, Baquero, Zawirski 2011, INRIA RR-7506, section"
G_COUNTER = f"{_SHAPIRO} 3.1.2 (G-Counter)"
PN_COUNTER = f"{_SHAPIRO} 3.1.3 (PN-Counter)"
LWW_REGISTER = f"{_SHAPIRO} 3.2.1 (LWW-Register)"
MV_REGISTER = f"{_SHAPIRO} 3.2.2 (MV-Register)"
G_SET = f"{_SHAPIRO} 3.3.1 (G-Set)"
LWW_SET = f"{_SHAPIRO} 3.3.3 (LWW-element-Set)"
OR_SET = f"{_SHAPIRO} 3.3.5 (OR-Set)"
BIENIUSA = "Bieniusa et al. 2012, An Optimized Conflict-free Replicated Set, section 2"
BAQUERO = "Baquero, Almeida, Shoker 2017, Pure Operation-Based Replicated Data Types, arXiv:1710.04469"
ALMEIDA = "Almeida et al. 2014, Scalable and Accurate Causality Tracking for Eventually Consistent Stores"
DYNAMO = "DeCandia et al. 2007, Dynamo, section 4.4 (shopping cart)"

RIAK = "https://docs.riak.com/riak/kv/latest/learn/concepts/crdts"
RIAK_COUNTERS = "https://docs.riak.com/riak/kv/latest/developing/data-types/counters/index.html"
_RIAK_DT = "https://github.com/basho/riak_dt, src"
RIAK_ORSWOT = f"{_RIAK_DT}/riak_dt_delta_orswot.erl"
RIAK_MAXREG = f"{_RIAK_DT}/riak_dt_maxreg.erl"
RIAK_MINREG = f"{_RIAK_DT}/riak_dt_minreg.erl"
RIAK_LWWSET = f"{_RIAK_DT}/riak_dt_lwwset.erl"

ANTIDOTE = "https://antidotedb.gitbook.io/documentation/architecture/datatypes"
_REDIS = "https://redis.io/docs/latest/operate/rs/databases/active-active/develop/data-types"
REDIS_SETS = f"{_REDIS}/sets/"
REDIS_STRINGS = f"{_REDIS}/strings/"
REDIS_HASHES = f"{_REDIS}/hashes/"
AUTOMERGE_CONFLICTS = "https://automerge.org/docs/documents/conflicts"
AUTOMERGE_RULES = "https://automerge.org/docs/reference/under-the-hood/merge-rules"


def derived(source: str) -> str:
    return f"derived from {source}"
