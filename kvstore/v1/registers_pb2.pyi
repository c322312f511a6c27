from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ObjectType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OBJECT_TYPE_UNSPECIFIED: _ClassVar[ObjectType]
    OBJECT_TYPE_REGISTER: _ClassVar[ObjectType]
    OBJECT_TYPE_LWW: _ClassVar[ObjectType]

class Count(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COUNT_ZERO: _ClassVar[Count]
    COUNT_ONE: _ClassVar[Count]
    COUNT_QUORUM: _ClassVar[Count]
    COUNT_ALL: _ClassVar[Count]
OBJECT_TYPE_UNSPECIFIED: ObjectType
OBJECT_TYPE_REGISTER: ObjectType
OBJECT_TYPE_LWW: ObjectType
COUNT_ZERO: Count
COUNT_ONE: Count
COUNT_QUORUM: Count
COUNT_ALL: Count

class ObjectName(_message.Message):
    __slots__ = ("bucket", "type", "key")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    type: ObjectType
    key: bytes
    def __init__(self, bucket: _Optional[str] = ..., type: _Optional[_Union[ObjectType, str]] = ..., key: _Optional[bytes] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("object", "r", "pr")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    R_FIELD_NUMBER: _ClassVar[int]
    PR_FIELD_NUMBER: _ClassVar[int]
    object: ObjectName
    r: int
    pr: int
    def __init__(self, object: _Optional[_Union[ObjectName, _Mapping]] = ..., r: _Optional[int] = ..., pr: _Optional[int] = ...) -> None: ...

class Dot(_message.Message):
    __slots__ = ("actor", "counter")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    actor: bytes
    counter: int
    def __init__(self, actor: _Optional[bytes] = ..., counter: _Optional[int] = ...) -> None: ...

class Sibling(_message.Message):
    __slots__ = ("value", "dot", "hlc", "written_ms", "expires_ms")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DOT_FIELD_NUMBER: _ClassVar[int]
    HLC_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    dot: Dot
    hlc: int
    written_ms: int
    expires_ms: int
    def __init__(self, value: _Optional[bytes] = ..., dot: _Optional[_Union[Dot, _Mapping]] = ..., hlc: _Optional[int] = ..., written_ms: _Optional[int] = ..., expires_ms: _Optional[int] = ...) -> None: ...

class GetReply(_message.Message):
    __slots__ = ("siblings", "context", "replied", "primaries_replied", "n")
    SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    REPLIED_FIELD_NUMBER: _ClassVar[int]
    PRIMARIES_REPLIED_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    siblings: _containers.RepeatedCompositeFieldContainer[Sibling]
    context: bytes
    replied: int
    primaries_replied: int
    n: int
    def __init__(self, siblings: _Optional[_Iterable[_Union[Sibling, _Mapping]]] = ..., context: _Optional[bytes] = ..., replied: _Optional[int] = ..., primaries_replied: _Optional[int] = ..., n: _Optional[int] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("object", "value", "context", "ttl_ms", "w", "dw", "pw", "operation_id")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    W_FIELD_NUMBER: _ClassVar[int]
    DW_FIELD_NUMBER: _ClassVar[int]
    PW_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    object: ObjectName
    value: bytes
    context: bytes
    ttl_ms: int
    w: int
    dw: int
    pw: int
    operation_id: bytes
    def __init__(self, object: _Optional[_Union[ObjectName, _Mapping]] = ..., value: _Optional[bytes] = ..., context: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ..., w: _Optional[int] = ..., dw: _Optional[int] = ..., pw: _Optional[int] = ..., operation_id: _Optional[bytes] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("object", "context", "w", "dw", "pw", "operation_id")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    W_FIELD_NUMBER: _ClassVar[int]
    DW_FIELD_NUMBER: _ClassVar[int]
    PW_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    object: ObjectName
    context: bytes
    w: int
    dw: int
    pw: int
    operation_id: bytes
    def __init__(self, object: _Optional[_Union[ObjectName, _Mapping]] = ..., context: _Optional[bytes] = ..., w: _Optional[int] = ..., dw: _Optional[int] = ..., pw: _Optional[int] = ..., operation_id: _Optional[bytes] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("acked", "needed", "primaries_acked", "durable", "n", "siblings", "superseded", "context", "operation_id")
    ACKED_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    PRIMARIES_ACKED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    acked: int
    needed: int
    primaries_acked: int
    durable: int
    n: int
    siblings: int
    superseded: bool
    context: bytes
    operation_id: bytes
    def __init__(self, acked: _Optional[int] = ..., needed: _Optional[int] = ..., primaries_acked: _Optional[int] = ..., durable: _Optional[int] = ..., n: _Optional[int] = ..., siblings: _Optional[int] = ..., superseded: bool = ..., context: _Optional[bytes] = ..., operation_id: _Optional[bytes] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("cluster_id", "cluster_name", "topology_epoch", "n", "members")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_EPOCH_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    cluster_name: str
    topology_epoch: int
    n: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, cluster_id: _Optional[bytes] = ..., cluster_name: _Optional[str] = ..., topology_epoch: _Optional[int] = ..., n: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("node_id", "address", "zone", "weight", "is_joining")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    IS_JOINING_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    address: str
    zone: str
    weight: int
    is_joining: bool
    def __init__(self, node_id: _Optional[bytes] = ..., address: _Optional[str] = ..., zone: _Optional[str] = ..., weight: _Optional[int] = ..., is_joining: bool = ...) -> None: ...

class Bucket(_message.Message):
    __slots__ = ("name", "default_type", "r", "w", "dw", "pr", "pw", "ttl_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TYPE_FIELD_NUMBER: _ClassVar[int]
    R_FIELD_NUMBER: _ClassVar[int]
    W_FIELD_NUMBER: _ClassVar[int]
    DW_FIELD_NUMBER: _ClassVar[int]
    PR_FIELD_NUMBER: _ClassVar[int]
    PW_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    default_type: ObjectType
    r: int
    w: int
    dw: int
    pr: int
    pw: int
    ttl_ms: int
    def __init__(self, name: _Optional[str] = ..., default_type: _Optional[_Union[ObjectType, str]] = ..., r: _Optional[int] = ..., w: _Optional[int] = ..., dw: _Optional[int] = ..., pr: _Optional[int] = ..., pw: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class CreateBucketRequest(_message.Message):
    __slots__ = ("bucket",)
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    bucket: Bucket
    def __init__(self, bucket: _Optional[_Union[Bucket, _Mapping]] = ...) -> None: ...

class CreateBucketReply(_message.Message):
    __slots__ = ("topology_epoch",)
    TOPOLOGY_EPOCH_FIELD_NUMBER: _ClassVar[int]
    topology_epoch: int
    def __init__(self, topology_epoch: _Optional[int] = ...) -> None: ...

class ListBucketsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBucketsReply(_message.Message):
    __slots__ = ("buckets",)
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    buckets: _containers.RepeatedCompositeFieldContainer[Bucket]
    def __init__(self, buckets: _Optional[_Iterable[_Union[Bucket, _Mapping]]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "definite", "retryable", "retry_after_s", "message", "numbers", "texts", "operation_id")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class TextsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    DEFINITE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    code: str
    definite: bool
    retryable: bool
    retry_after_s: float
    message: str
    numbers: _containers.ScalarMap[str, int]
    texts: _containers.ScalarMap[str, str]
    operation_id: bytes
    def __init__(self, code: _Optional[str] = ..., definite: bool = ..., retryable: bool = ..., retry_after_s: _Optional[float] = ..., message: _Optional[str] = ..., numbers: _Optional[_Mapping[str, int]] = ..., texts: _Optional[_Mapping[str, str]] = ..., operation_id: _Optional[bytes] = ...) -> None: ...
