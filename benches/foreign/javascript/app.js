// A wasi:http 0.2 component in JavaScript: see ../README.md for what it answers.
import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from 'wasi:http/types@VERSION';

const NAME = 'javascript';
// The most bytes that one blocking write takes.
const PIECE = 4096;
const bytes = (text) => new TextEncoder().encode(text);

export const incomingHandler = {
  handle(request, out) {
    const path = (request.pathWithQuery() ?? '/').split('?')[0];
    if (path === '/') say(out, 200, {}, `Hello from ${NAME}\n`);
    else if (path === '/echo' && request.method().tag === 'post') echo(out, request);
    else if (path === '/boom') throw new Error('the caller asked for an error');
    else say(out, 404, { 'x-tool': NAME }, path);
  },
};

// Hands the response over, and lets "send" write its body.
function answer(out, status, headers, send) {
  const fields = Fields.fromList(Object.entries(headers).map(([name, value]) => [name, bytes(value)]));
  const response = new OutgoingResponse(fields);
  response.setStatusCode(status);
  const body = response.body();
  ResponseOutparam.set(out, { tag: 'ok', val: response });
  const stream = body.write();
  send(stream);
  stream[Symbol.dispose]();
  OutgoingBody.finish(body, undefined);
}

function say(out, status, headers, text) {
  answer(out, status, { 'content-type': 'text/plain', ...headers }, (stream) => {
    const all = bytes(text);
    for (let at = 0; at < all.length; at += PIECE) stream.blockingWriteAndFlush(all.subarray(at, at + PIECE));
  });
}

function echo(out, request) {
  answer(out, 200, { 'content-type': 'application/octet-stream' }, (stream) => {
    const body = request.consume();
    const source = body.stream();
    for (let piece; (piece = next(source)); ) stream.blockingWriteAndFlush(piece);
    source[Symbol.dispose]();
    body[Symbol.dispose]();
  });
}

// The next piece, or nothing at the end.
function next(source) {
  try {
    return source.blockingRead(BigInt(PIECE));
  } catch (error) {
    if (error.payload?.tag === 'closed') return undefined;
    throw error;
  }
}
