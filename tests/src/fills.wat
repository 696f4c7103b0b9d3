;; Fills 250 MiB of its memory without end: one instruction each time.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))

  (core module $m
    (memory 4000)
    (func (export "handle") (param i32 i32)
      (loop $again
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 0xfa00000))
        (br $again))))
  (core instance $i (instantiate $m))

  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $i "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
