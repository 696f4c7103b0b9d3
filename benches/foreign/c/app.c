// A wasi:http 0.2 component in C: see ../README.md for what it answers.
#include "app.h"
#include <string.h>

#define NAME "c"
// The most bytes that one blocking write takes.
#define PIECE 4096

static void add(http_own_fields_t fields, const char *name, const char *value) {
  app_string_t key = {(uint8_t *)name, strlen(name)};
  http_field_value_t field = {(uint8_t *)value, strlen(value)};
  http_header_error_t error;
  if (!http_method_fields_append(http_borrow_fields(fields), &key, &field, &error)) __builtin_trap();
}

static bool put(io_own_output_stream_t sink, app_list_u8_t bytes) {
  io_stream_error_t error;
  while (bytes.len > 0) {
    app_list_u8_t piece = {bytes.ptr, bytes.len < PIECE ? bytes.len : PIECE};
    if (!io_method_output_stream_blocking_write_and_flush(io_borrow_output_stream(sink), &piece, &error)) return false;
    bytes = (app_list_u8_t){bytes.ptr + piece.len, bytes.len - piece.len};
  }
  return true;
}

static void copy(http_borrow_incoming_request_t request, io_own_output_stream_t sink) {
  http_own_incoming_body_t body;
  io_own_input_stream_t source;
  app_list_u8_t piece;
  io_stream_error_t error;
  http_method_incoming_request_consume(request, &body);
  http_method_incoming_body_stream(http_borrow_incoming_body(body), &source);
  bool open = true;
  while (open && io_method_input_stream_blocking_read(io_borrow_input_stream(source), 64 * 1024, &piece, &error)) {
    open = put(sink, piece);
    app_list_u8_free(&piece);
  }
  io_input_stream_drop_own(source);
  http_incoming_body_drop_own(body);
}

void exports_handler_handle(http_own_incoming_request_t owned, http_own_response_outparam_t out) {
  http_borrow_incoming_request_t request = http_borrow_incoming_request(owned);
  http_method_t method;
  app_string_t path = {0};
  http_method_incoming_request_method(request, &method);
  http_method_incoming_request_path_with_query(request, &path);
  uint8_t *query = path.len ? memchr(path.ptr, '?', path.len) : NULL;
  app_list_u8_t name = {path.ptr, query ? (size_t)(query - path.ptr) : path.len};
#define IS(text) (name.len == strlen(text) && memcmp(name.ptr, text, name.len) == 0)
  bool hello = IS("/"), echo = IS("/echo") && method.tag == HTTP_METHOD_POST;
  if (IS("/boom")) __builtin_trap();

  http_own_fields_t fields = http_constructor_fields();
  add(fields, "content-type", echo ? "application/octet-stream" : "text/plain");
  if (!hello && !echo) add(fields, "x-tool", NAME);
  http_result_own_outgoing_response_error_code_t result = {.is_err = false};
  result.val.ok = http_constructor_outgoing_response(fields);
  http_borrow_outgoing_response_t response = http_borrow_outgoing_response(result.val.ok);
  http_method_outgoing_response_set_status_code(response, hello || echo ? 200 : 404);
  http_own_outgoing_body_t body;
  io_own_output_stream_t sink;
  http_method_outgoing_response_body(response, &body);
  http_method_outgoing_body_write(http_borrow_outgoing_body(body), &sink);
  http_static_response_outparam_set(out, &result);

  static const char text[] = "Hello from " NAME "\n";
  if (echo) copy(request, sink);
  else put(sink, hello ? (app_list_u8_t){(uint8_t *)text, strlen(text)} : name);
  http_error_code_t error;
  io_output_stream_drop_own(sink);
  http_static_outgoing_body_finish(body, NULL, &error);
  app_string_free(&path);
  http_method_free(&method);
  http_incoming_request_drop_own(owned);
}
