# A wasi:http 0.2 component in Python: see ../README.md for what it answers.
import asyncio

from componentize_py_types import Ok
from poll_loop import PollLoop, Sink, Stream
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, Method_Post, OutgoingResponse, ResponseOutparam

NAME = "python"


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        loop = PollLoop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(answer(request, response_out))


async def answer(request: IncomingRequest, out: ResponseOutparam) -> None:
    path = (request.path_with_query() or "/").split("?")[0]
    if path == "/":
        await say(out, 200, {}, f"Hello from {NAME}\n")
    elif path == "/echo" and isinstance(request.method(), Method_Post):
        await echo(request, out)
    elif path == "/boom":
        raise ValueError("the caller asked for an error")
    else:
        await say(out, 404, {"x-tool": NAME}, path)


def start(out: ResponseOutparam, status: int, headers: dict[str, str]) -> Sink:
    response = OutgoingResponse(Fields.from_list([(name, value.encode()) for name, value in headers.items()]))
    response.set_status_code(status)
    sink = Sink(response.body())
    ResponseOutparam.set(out, Ok(response))
    return sink


async def say(out: ResponseOutparam, status: int, headers: dict[str, str], text: str) -> None:
    # There is no content-length: with one, a host closes the stream as soon as it has the bytes, and Sink.send may raise.
    sink = start(out, status, {"content-type": "text/plain", **headers})
    await sink.send(text.encode())
    sink.close()


async def echo(request: IncomingRequest, out: ResponseOutparam) -> None:
    sink = start(out, 200, {"content-type": "application/octet-stream"})
    source = Stream(request.consume())
    while (piece := await source.next()) is not None:
        await sink.send(piece)
    sink.close()
