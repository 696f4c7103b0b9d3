// A wasi:http 0.3 component in JavaScript: see ../README.md for what it answers.
import types from 'wasi:http/types@VERSION';

const NAME = 'quickjs';
const { Fields, Request, Response } = types;

export const handler = {
  async handle(request) {
    const path = (request.getPathWithQuery() ?? '/').split('?')[0];
    if (path === '/') return say(200, {}, `Hello from ${NAME}\n`);
    if (path === '/echo' && request.getMethod().tag === 'post') {
      const [body] = Request.consumeBody(request, settled(wit.Future.RESULT_VOID_ERROR_CODE));
      return start(200, { 'content-type': 'application/octet-stream' }, pieces(body));
    }
    if (path === '/boom') throw new Error('the caller asked for an error');
    return say(404, { 'x-tool': NAME }, path);
  },
};

function start(status, headers, body) {
  const fields = Fields.fromList(Object.entries(headers).map(([name, value]) => [name, bytes(value)]));
  const [response] = Response.new(fields, body, settled(wit.Future.RESULT_OPTION_OTHER_ERROR_CODE));
  response.setStatusCode(status);
  return response;
}

function say(status, headers, text) {
  return start(status, { 'content-type': 'text/plain', ...headers }, [bytes(text)]);
}

// The bytes pass through here: the host would join the two ends of a stream that it got back untouched.
async function* pieces(body) {
  for await (const piece of body) yield piece;
}

// A future that has its value. The engine names the types of futures by their parts.
function settled(type) {
  return wit.Future.from({ tag: 'ok', val: null }, type).readable;
}

// The engine has no TextEncoder.
function bytes(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (letter) => letter.charCodeAt(0));
}
