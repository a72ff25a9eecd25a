"""The blocks of Adam-mini (arXiv 2406.16793v7, Algorithms 2 and 3), from the names and shapes of a model's parameters.

    Algorithm 2 (not a Transformer)
    A2.1  for name, param in parameters:
    A2.2    param_blocks[name] = param                                 one block
    Algorithm 3 (Transformer)
    A3.1  for name, param in parameters:
    A3.2    if param is an embedding or output layer: by token         (row)
    A3.3    else if it is a query or key: by head
    A3.4    else if it is a value, attention projection or MLP: by output neuron (row)
    A3.5    else: param_blocks[name] = param                           one block

Where the paper is silent: a bias follows its weight, one number for each row, and by head for query and key. A position
embedding goes by position (row). A norm's weight and a norm's bias fall under A3.5. A fused QKV is cut into its query,
key and value first. A transposed weight (GPT-2's Conv1D, in x out) goes by column.

A parameter's part is read off the whole tokens of its dotted name, never off pieces of them, by `ROLES`; the user's
`roles` come first. A name that no rule knows falls under A3.5, as the algorithm says.

Deviations: none in the lines above. Grouped-query attention: a key falls into `kv_heads` heads.
The released package (`adam-mini` 1.1.1) looks for pieces of names anywhere ("wo" in "network"), knows no fused QKV and
no Conv1D, and takes dim * dim / n_heads entries for a head, which fails where the head's width is not dim / n_heads.
"""

from collections.abc import Mapping

from reference.adam_mini import Blocks, Segment

# The last tokens of a module's name -> its part. "qkv" lies as [query | key | value], "qkv by head" as
# [query, key, value] for head 1, then for head 2 ...; a "transposed" one is in x out.
ROLES: dict[str, tuple[str, ...]] = {
    "embedding": (
        "embed_tokens", "tok_embeddings", "wte", "wpe", "embed_positions", "embed_in", "embedding", "word_embeddings",
        "position_embeddings", "token_type_embeddings",
    ),
    "output": ("lm_head", "embed_out", "output"),
    "query": ("q_proj", "wq", "query"),
    "key": ("k_proj", "wk", "key"),
    "value": ("v_proj", "wv", "value"),
    "neurons": (
        "o_proj", "wo", "out_proj", "attention.dense", "attention.output.dense", "gate_proj", "up_proj", "down_proj",
        "w1", "w2", "w3", "fc1", "fc2", "linear1", "linear2", "intermediate.dense", "output.dense", "dense_h_to_4h",
        "dense_4h_to_h",
    ),
    "neurons transposed": ("c_fc", "c_proj"),
    "qkv": ("in_proj", "qkv", "qkv_proj", "Wqkv"),
    "qkv transposed": ("c_attn",),
    "qkv by head": ("query_key_value",),
}  # fmt: skip


def partition(
    named_shapes: Mapping[str, tuple[int, ...]],
    *,
    heads: int | None = None,
    kv_heads: int | None = None,
    transformer: bool = True,
    roles: Mapping[str, str] | None = None,
) -> dict[str, Blocks]:
    """Name -> blocks, in the form that `reference.adam_mini.step` takes, for each named shape.

    heads, kv_heads: the number of heads of the query, and of the key and value (by default the same).
    roles: name -> a key of `ROLES`, or "other" for one block, where the table does not know a name or is wrong.
    ValueError where a role is unknown, or where an attention weight does not fall into so many heads.
    """
    if not transformer:
        return _by_tensor(named_shapes)
    roles = dict(roles or {})
    wrong = {n: r for n, r in roles.items() if n not in named_shapes or r not in (*ROLES, "other")}
    if wrong:
        raise ValueError(f"roles needs names of parameters and roles among {', '.join(ROLES)} and other; got {wrong}")
    blocks: dict[str, Blocks] = {}
    for name, shape in named_shapes.items():  # A3.1
        role = roles.get(name) or role_of(name)
        rows = "columns" if role.endswith("transposed") and len(shape) > 1 else "rows"
        if role in ("embedding", "output"):
            blocks[name] = "rows"  # A3.2
        elif role in ("query", "key"):
            blocks[name] = ("heads", _heads(name, shape, role, heads, kv_heads))  # A3.3
        elif role in ("value", "neurons", "neurons transposed"):
            blocks[name] = rows  # A3.4
        elif role.startswith("qkv"):
            blocks[name] = _fused(name, shape, role, rows, heads, kv_heads)
        else:
            blocks[name] = "tensor"  # A3.5
    return blocks


def role_of(name: str) -> str:
    """The part that a parameter plays, a key of `ROLES` or "other"; of two matches the one with more tokens wins."""
    tokens = name.split(".")
    if tokens[-1] in ("in_proj_weight", "in_proj_bias"):  # torch.nn.MultiheadAttention holds these itself
        return "qkv"
    module = tokens[:-1]
    keys = [(key.split("."), role) for role, keys in ROLES.items() for key in keys]
    found = [(len(key), role) for key, role in keys if module[-len(key) :] == key]
    return max(found, default=(0, "other"))[1]


def _by_tensor(named_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Blocks]:
    blocks: dict[str, Blocks] = {}
    for name in named_shapes:  # A2.1
        blocks[name] = "tensor"  # A2.2
    return blocks


def _heads(name: str, shape: tuple[int, ...], role: str, heads: int | None, kv_heads: int | None) -> int:
    count = heads if role == "query" or kv_heads is None else kv_heads
    if not count or count < 1:
        raise ValueError(f"{name} goes by head: give the number of heads, got heads={heads}, kv_heads={kv_heads}")
    if shape[0] % count:
        raise ValueError(f"{name} of shape {shape} has {shape[0]} rows, which do not fall into {count} heads")
    return count


def _fused(
    name: str, shape: tuple[int, ...], role: str, rows: str, heads: int | None, kv_heads: int | None
) -> list[Segment]:
    """Query, key and value of a fused weight or bias as segments: by head, by head, by row."""
    heads = _heads(name, (heads or 0,), "query", heads, None)
    kv_heads = kv_heads or heads
    length = shape[-1] if rows == "columns" else shape[0]
    width = length // (heads + 2 * kv_heads)
    if width * (heads + 2 * kv_heads) != length:
        raise ValueError(
            f"{name} of shape {shape} has {length} output neurons, which do not fall into {heads} heads of query "
            f"and {kv_heads} each of key and value"
        )
    by_head = "column_heads" if rows == "columns" else "heads"
    if role == "qkv by head":
        if kv_heads != heads:
            raise ValueError(
                f"{name} lies head by head, so key and value have {heads} heads too, got kv_heads={kv_heads}"
            )
        return [(by_head, width, 1), (by_head, width, 1), (rows, width, width)] * heads
    return [
        (by_head, heads * width, heads),
        (by_head, kv_heads * width, kv_heads),
        (rows, kv_heads * width, kv_heads * width),
    ]
