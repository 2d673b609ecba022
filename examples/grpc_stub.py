"""gRPC, with the stub that is installed with the server. In another project, generate it from app/proto/generation.proto."""

import grpc

from app.proto.generation_pb2 import GenerateRequest
from app.proto.generation_pb2_grpc import GenerationStub

with grpc.insecure_channel("127.0.0.1:9000") as channel:
    request = GenerateRequest(model="storyteller", prompt="Once upon a time", max_tokens=40)
    try:
        for frame in GenerationStub(channel).Generate(request, timeout=60):
            kind = frame.WhichOneof("frame")
            if kind == "delta":
                print(frame.delta.text, end="", flush=True)
            elif kind == "end":
                print(f"\n[{frame.end.usage.completion_tokens} tokens]")
    except grpc.RpcError as error:
        raise SystemExit(f"{error.code().name}: {error.details()}") from error
