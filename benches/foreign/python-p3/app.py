# A wasi:http 0.3 component in Python: see ../README.md for what it answers.
from componentize_py_async_support import spawn
from componentize_py_types import Ok
import wit_world
from wit_world import exports
from wit_world.imports.wasi_http_types import Fields, Method_Post, Request, Response

NAME = "python-p3"
PIECE = 64 * 1024

# The two constructors of futures, by shorter names.
future_of_trailers = wit_world.result_option_wasi_http_types_fields_wasi_http_types_error_code_future
future_of_success = wit_world.result_unit_wasi_http_types_error_code_future


class Handler(exports.Handler):
    async def handle(self, request: Request) -> Response:
        path = (request.get_path_with_query() or "/").split("?")[0]
        if path == "/":
            return say(200, {}, f"Hello from {NAME}\n")
        if path == "/echo" and isinstance(request.get_method(), Method_Post):
            return echo(request)
        if path == "/boom":
            raise ValueError("the caller asked for an error")
        return say(404, {"x-tool": NAME}, path)


# A response, and the writer of its body.
def start(status: int, headers: dict[str, str]):
    fields = Fields.from_list([(name, value.encode()) for name, value in headers.items()])
    writer, body = wit_world.byte_stream()
    response = Response.new(fields, body, no_trailers())[0]
    response.set_status_code(status)
    return response, writer


# A future that resolves as soon as its writer is dropped.
def no_trailers():
    return future_of_trailers(lambda: Ok(None))[1]


def say(status: int, headers: dict[str, str], text: str) -> Response:
    response, writer = start(status, {"content-type": "text/plain", **headers})

    async def send() -> None:
        with writer:
            await writer.write_all(text.encode())

    spawn(send())
    return response


def echo(request: Request) -> Response:
    response, writer = start(200, {"content-type": "application/octet-stream"})
    source = Request.consume_body(request, future_of_success(lambda: Ok(None))[1])[0]

    async def send() -> None:
        with source, writer:
            while not source.writer_dropped and not writer.reader_dropped:
                await writer.write_all(await source.read(PIECE))

    spawn(send())
    return response
