"""Answers to random schemas: whatever the model, those that end by themselves parse and validate."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import torch

from app.schema.constraint import Constraint
from app.schema.sampling import SamplingParams
from deployments.engine.config import EngineConfig
from deployments.engine.loading import load_engine
from deployments.model import MODEL_DIR
from deployments.model.files import load_tokenizer, read_end_ids
from tests.deployments.engine.harness import answer_all, make_job

SCHEMAS = 300
MAX_TOKENS = 96


def random_schema(source: random.Random, depth: int) -> dict[str, Any]:
    """Short enough as a rule that an answer ends within `MAX_TOKENS`."""
    kinds = ["string", "pattern", "integer", "number", "enum", "const", "boolean", "null", "format"]
    if depth:
        kinds += ["object"] * 5 + ["array"] * 3 + ["anyOf", "oneOf", "allOf", "reference", "tuple"]
    kind = source.choice(kinds)
    inner = [random_schema(source, depth - 1) for _ in range(source.randint(1, 3))] if depth else []
    low = source.randint(-50, 50)
    names = source.sample(["a", "name", "ünï", 'quo"te', "x y", "$", "z"], len(inner))
    properties = dict(zip(names, inner, strict=True))
    made: dict[str, dict[str, Any]] = {
        "string": {"type": "string", "minLength": source.randint(0, 3), "maxLength": source.randint(3, 9)},
        "pattern": {"type": "string", "pattern": source.choice(["^[a-c]{2,5}$", "^\\d{3}-\\d{2}$", "^(ab|cd)+e$"])},
        "integer": {"type": "integer", "minimum": low, "maximum": low + source.randint(0, 1000)},
        "number": {"type": "number", "minimum": low, "exclusiveMaximum": low + 10},
        "enum": {"enum": source.sample(["x", "ÿ", 1, 2.5, None, True, [1], {"k": "v"}, "long text, with \\ and \""], 3)},
        "const": {"const": source.choice(["é", 7, {"deep": [None, {}]}, False])},
        "boolean": {"type": ["boolean", "null"]},
        "null": {"type": "null"},
        "format": {"type": "string", "format": source.choice(["date", "time", "uuid", "ipv4"])},
        "object": {
            "type": "object",
            "properties": properties,
            "required": [name for name in names if source.random() < 0.7],
            "additionalProperties": False,
        },
        "array": {"type": "array", "items": (inner or [{}])[0], "minItems": source.randint(0, 2), "maxItems": 3},
        "anyOf": {"anyOf": inner},
        "oneOf": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 0, "maximum": 99}]},
        "allOf": {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + 9}]},
        "reference": {
            "$defs": {
                "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
            },
            "type": "object",
            "properties": {"node": {"$ref": "#/$defs/node"}},
            "additionalProperties": False,
        },
        "tuple": {"type": "array", "prefixItems": inner, "items": False, "minItems": len(inner)},
    }  # fmt: skip
    return made[kind]


def test_answers_to_random_schemas_parse_and_validate() -> None:
    torch.set_num_threads(1)
    source = random.Random(11)
    schemas: list[dict[str, Any]] = []
    while len(schemas) < SCHEMAS:
        schema = random_schema(source, 2)
        # A reference counts from the root, wherever it stands.
        if '"$ref"' not in json.dumps(schema) or "$defs" in schema:
            schemas.append(schema)
    path, tokenizer = str(MODEL_DIR), load_tokenizer(str(MODEL_DIR))
    config = EngineConfig(
        max_model_len_tokens=256,
        max_running_sequences=32,
        max_waiting_sequences=SCHEMAS,
        kv_cache_tokens=16384,
    )
    engine = load_engine(
        path, config, device="cpu", end_ids=read_end_ids(path), tokenizer_json=tokenizer.to_str()
    )
    prompt = tokenizer.encode("Once upon a time").ids
    jobs = []
    for key, schema in enumerate(schemas):
        sampling = SamplingParams(
            max_tokens=MAX_TOKENS,
            seed=key,
            temperature=(0.0, 1.0, 1.8)[key % 3],
            constraint=Constraint(kind="json_schema", text=json.dumps(schema)),
        )
        jobs.append(make_job(key, prompt, sampling))
    ended = 0
    for (key, _), answer in answer_all(engine, jobs).items():
        assert answer.finish in ("stop", "length"), (schemas[key], answer.error)
        if answer.finish == "stop":
            ended += 1
            jsonschema.validate(json.loads(tokenizer.decode(answer.tokens)), schemas[key])
    assert ended >= SCHEMAS * 0.9
