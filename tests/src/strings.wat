;; Hands a string of 16 million characters from one component inside it to another, without end.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))

  (component $sink
    (core module $m
      (memory (export "memory") 512)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
      (func (export "take") (param i32 i32)))
    (core instance $i (instantiate $m))
    (func (export "take") (param "s" string)
      (canon lift (core func $i "take") (memory $i "memory") (realloc (func $i "realloc")))))
  (component $source
    (import "take" (func $take (param "s" string)))
    (core module $libc (memory (export "memory") 512))
    (core instance $libc (instantiate $libc))
    (core func $lowered (canon lower (func $take) string-encoding=utf16 (memory $libc "memory")))
    (core module $m
      (import "" "take" (func $take (param i32 i32)))
      (func (export "run")
        (loop $again
          (call $take (i32.const 0) (i32.const 0x1000000))
          (br $again))))
    (core instance $i (instantiate $m (with "" (instance (export "take" (func $lowered))))))
    (func (export "run") (canon lift (core func $i "run"))))
  (instance $to (instantiate $sink))
  (instance $from (instantiate $source (with "take" (func $to "take"))))
  (component $guest
    (import "request" (type $request (sub resource)))
    (import "out" (type $out (sub resource)))
    (import "run" (func $run))
    (core func $lowered (canon lower (func $run)))
    (core module $m
      (import "" "run" (func $run))
      (func (export "handle") (param i32 i32) (call $run)))
    (core instance $i (instantiate $m (with "" (instance (export "run" (func $lowered))))))
    (func (export "handle") (param "request" (own $request)) (param "response-out" (own $out))
      (canon lift (core func $i "handle"))))
  (instance $g (instantiate $guest
    (with "request" (type $request))
    (with "out" (type $out))
    (with "run" (func $from "run"))))
  (instance $handler (export "handle" (func $g "handle")))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
