from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToWorker(_message.Message):
    __slots__ = ("hello", "ping", "fetch", "encode", "open", "draft", "verify", "close", "bye", "steer")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    STEER_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ping: Ping
    fetch: Fetch
    encode: Encode
    open: Open
    draft: Draft
    verify: Verify
    close: Close
    bye: Bye
    steer: Steer
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., fetch: _Optional[_Union[Fetch, _Mapping]] = ..., encode: _Optional[_Union[Encode, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., draft: _Optional[_Union[Draft, _Mapping]] = ..., verify: _Optional[_Union[Verify, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ..., steer: _Optional[_Union[Steer, _Mapping]] = ...) -> None: ...

class ToOrchestrator(_message.Message):
    __slots__ = ("info", "pong", "chunk", "encoded", "opened", "drafted", "verified", "failed", "bye")
    INFO_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    info: Info
    pong: Pong
    chunk: Chunk
    encoded: Encoded
    opened: Opened
    drafted: Drafted
    verified: Verified
    failed: Failed
    bye: Bye
    def __init__(self, info: _Optional[_Union[Info, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., encoded: _Optional[_Union[Encoded, _Mapping]] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., drafted: _Optional[_Union[Drafted, _Mapping]] = ..., verified: _Optional[_Union[Verified, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...

class Rules(_message.Message):
    __slots__ = ("vocabulary", "begin", "limit", "end_ids", "suppress", "begin_suppress", "forced_begin", "forced_end", "repetition_penalty", "no_repeat_ngram", "min_length", "min_new_tokens", "temperature", "top_k", "top_p", "seed", "confidence", "distance", "rejection", "logprobs")
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    END_IDS_FIELD_NUMBER: _ClassVar[int]
    SUPPRESS_FIELD_NUMBER: _ClassVar[int]
    BEGIN_SUPPRESS_FIELD_NUMBER: _ClassVar[int]
    FORCED_BEGIN_FIELD_NUMBER: _ClassVar[int]
    FORCED_END_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    NO_REPEAT_NGRAM_FIELD_NUMBER: _ClassVar[int]
    MIN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MIN_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    vocabulary: int
    begin: int
    limit: int
    end_ids: _containers.RepeatedScalarFieldContainer[int]
    suppress: _containers.RepeatedScalarFieldContainer[int]
    begin_suppress: _containers.RepeatedScalarFieldContainer[int]
    forced_begin: int
    forced_end: _containers.RepeatedScalarFieldContainer[int]
    repetition_penalty: float
    no_repeat_ngram: int
    min_length: int
    min_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    confidence: str
    distance: str
    rejection: bool
    logprobs: int
    def __init__(self, vocabulary: _Optional[int] = ..., begin: _Optional[int] = ..., limit: _Optional[int] = ..., end_ids: _Optional[_Iterable[int]] = ..., suppress: _Optional[_Iterable[int]] = ..., begin_suppress: _Optional[_Iterable[int]] = ..., forced_begin: _Optional[int] = ..., forced_end: _Optional[_Iterable[int]] = ..., repetition_penalty: _Optional[float] = ..., no_repeat_ngram: _Optional[int] = ..., min_length: _Optional[int] = ..., min_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., confidence: _Optional[str] = ..., distance: _Optional[str] = ..., rejection: _Optional[bool] = ..., logprobs: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "client")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    client: str
    def __init__(self, protocol: _Optional[int] = ..., client: _Optional[str] = ...) -> None: ...

class Info(_message.Message):
    __slots__ = ("protocol", "model", "architecture", "kind", "generation", "pid", "device", "dtype", "threads", "slots", "max_length", "max_source", "tokenizer", "tokenizer_size", "encodes", "decoder_prompt", "rules", "cores", "batching")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_SOURCE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SIZE_FIELD_NUMBER: _ClassVar[int]
    ENCODES_FIELD_NUMBER: _ClassVar[int]
    DECODER_PROMPT_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    BATCHING_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    model: str
    architecture: str
    kind: str
    generation: str
    pid: int
    device: str
    dtype: str
    threads: int
    slots: int
    max_length: int
    max_source: int
    tokenizer: str
    tokenizer_size: int
    encodes: bool
    decoder_prompt: _containers.RepeatedScalarFieldContainer[int]
    rules: Rules
    cores: int
    batching: str
    def __init__(self, protocol: _Optional[int] = ..., model: _Optional[str] = ..., architecture: _Optional[str] = ..., kind: _Optional[str] = ..., generation: _Optional[str] = ..., pid: _Optional[int] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., threads: _Optional[int] = ..., slots: _Optional[int] = ..., max_length: _Optional[int] = ..., max_source: _Optional[int] = ..., tokenizer: _Optional[str] = ..., tokenizer_size: _Optional[int] = ..., encodes: _Optional[bool] = ..., decoder_prompt: _Optional[_Iterable[int]] = ..., rules: _Optional[_Union[Rules, _Mapping]] = ..., cores: _Optional[int] = ..., batching: _Optional[str] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("count", "progress")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    count: int
    progress: int
    def __init__(self, count: _Optional[int] = ..., progress: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("count", "progress", "busy_ns", "expected_ns", "open_slots")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    BUSY_NS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_NS_FIELD_NUMBER: _ClassVar[int]
    OPEN_SLOTS_FIELD_NUMBER: _ClassVar[int]
    count: int
    progress: int
    busy_ns: int
    expected_ns: int
    open_slots: int
    def __init__(self, count: _Optional[int] = ..., progress: _Optional[int] = ..., busy_ns: _Optional[int] = ..., expected_ns: _Optional[int] = ..., open_slots: _Optional[int] = ...) -> None: ...

class Fetch(_message.Message):
    __slots__ = ("seq", "name", "offset")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    seq: int
    name: str
    offset: int
    def __init__(self, seq: _Optional[int] = ..., name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("seq", "total", "data")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    seq: int
    total: int
    data: bytes
    def __init__(self, seq: _Optional[int] = ..., total: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Encode(_message.Message):
    __slots__ = ("seq", "text", "src_lang", "tgt_lang")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SRC_LANG_FIELD_NUMBER: _ClassVar[int]
    TGT_LANG_FIELD_NUMBER: _ClassVar[int]
    seq: int
    text: str
    src_lang: str
    tgt_lang: str
    def __init__(self, seq: _Optional[int] = ..., text: _Optional[str] = ..., src_lang: _Optional[str] = ..., tgt_lang: _Optional[str] = ...) -> None: ...

class Encoded(_message.Message):
    __slots__ = ("seq", "ids", "forced_begin")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FORCED_BEGIN_FIELD_NUMBER: _ClassVar[int]
    seq: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    forced_begin: int
    def __init__(self, seq: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., forced_begin: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("session", "epoch", "seq", "ids", "source", "rules", "optional", "traceparent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    session: int
    epoch: int
    seq: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    source: _containers.RepeatedScalarFieldContainer[int]
    rules: Rules
    optional: bool
    traceparent: str
    def __init__(self, session: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., source: _Optional[_Iterable[int]] = ..., rules: _Optional[_Union[Rules, _Mapping]] = ..., optional: _Optional[bool] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("session", "epoch", "seq")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    session: int
    epoch: int
    seq: int
    def __init__(self, session: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class Outlook(_message.Message):
    __slots__ = ("reach", "floor", "ahead", "lead", "run", "window", "alpha_fb", "blind", "soft", "exact", "level", "product", "adapt")
    REACH_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    LEAD_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FB_FIELD_NUMBER: _ClassVar[int]
    BLIND_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    ADAPT_FIELD_NUMBER: _ClassVar[int]
    reach: float
    floor: float
    ahead: float
    lead: int
    run: int
    window: int
    alpha_fb: float
    blind: float
    soft: _containers.RepeatedScalarFieldContainer[float]
    exact: _containers.RepeatedScalarFieldContainer[float]
    level: float
    product: bool
    adapt: float
    def __init__(self, reach: _Optional[float] = ..., floor: _Optional[float] = ..., ahead: _Optional[float] = ..., lead: _Optional[int] = ..., run: _Optional[int] = ..., window: _Optional[int] = ..., alpha_fb: _Optional[float] = ..., blind: _Optional[float] = ..., soft: _Optional[_Iterable[float]] = ..., exact: _Optional[_Iterable[float]] = ..., level: _Optional[float] = ..., product: _Optional[bool] = ..., adapt: _Optional[float] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("session", "epoch", "seq", "at", "digest", "tokens", "limit", "stops", "piece", "outlook", "others")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STOPS_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    OUTLOOK_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    session: int
    epoch: int
    seq: int
    at: int
    digest: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    limit: int
    stops: bool
    piece: int
    outlook: Outlook
    others: int
    def __init__(self, session: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., at: _Optional[int] = ..., digest: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., limit: _Optional[int] = ..., stops: _Optional[bool] = ..., piece: _Optional[int] = ..., outlook: _Optional[_Union[Outlook, _Mapping]] = ..., others: _Optional[int] = ...) -> None: ...

class Drafted(_message.Message):
    __slots__ = ("session", "epoch", "seq", "tokens", "confidences", "low", "low_token", "low_confidence", "final", "length", "passes", "queue_ns", "compute_ns", "others", "shares", "logprobs", "top_ids")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    LOW_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOW_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    session: int
    epoch: int
    seq: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    confidences: _containers.RepeatedScalarFieldContainer[float]
    low: bool
    low_token: int
    low_confidence: float
    final: bool
    length: int
    passes: int
    queue_ns: int
    compute_ns: int
    others: _containers.RepeatedScalarFieldContainer[int]
    shares: bytes
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., confidences: _Optional[_Iterable[float]] = ..., low: _Optional[bool] = ..., low_token: _Optional[int] = ..., low_confidence: _Optional[float] = ..., final: _Optional[bool] = ..., length: _Optional[int] = ..., passes: _Optional[int] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., others: _Optional[_Iterable[int]] = ..., shares: _Optional[bytes] = ..., logprobs: _Optional[_Iterable[float]] = ..., top_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Verify(_message.Message):
    __slots__ = ("session", "epoch", "seq", "at", "digest", "tokens", "exact", "alpha_rb", "bonus", "shares")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    ALPHA_RB_FIELD_NUMBER: _ClassVar[int]
    BONUS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    session: int
    epoch: int
    seq: int
    at: int
    digest: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    exact: _containers.RepeatedScalarFieldContainer[bool]
    alpha_rb: float
    bonus: bool
    shares: bytes
    def __init__(self, session: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., at: _Optional[int] = ..., digest: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., exact: _Optional[_Iterable[bool]] = ..., alpha_rb: _Optional[float] = ..., bonus: _Optional[bool] = ..., shares: _Optional[bytes] = ...) -> None: ...

class Verified(_message.Message):
    __slots__ = ("session", "epoch", "seq", "accepted", "token", "distances", "length", "passes", "queue_ns", "compute_ns", "logprobs", "top_ids")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    session: int
    epoch: int
    seq: int
    accepted: int
    token: int
    distances: _containers.RepeatedScalarFieldContainer[float]
    length: int
    passes: int
    queue_ns: int
    compute_ns: int
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., accepted: _Optional[int] = ..., token: _Optional[int] = ..., distances: _Optional[_Iterable[float]] = ..., length: _Optional[int] = ..., passes: _Optional[int] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., logprobs: _Optional[_Iterable[float]] = ..., top_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Steer(_message.Message):
    __slots__ = ("session", "epoch", "needed")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    session: int
    epoch: int
    needed: bool
    def __init__(self, session: _Optional[int] = ..., epoch: _Optional[int] = ..., needed: _Optional[bool] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: int
    def __init__(self, session: _Optional[int] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("session", "epoch", "seq", "error", "message")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    session: int
    epoch: int
    seq: int
    error: str
    message: str
    def __init__(self, session: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., error: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Bye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...
