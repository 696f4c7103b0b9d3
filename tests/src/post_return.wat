;; A job whose exports overwrite their results as soon as they are returned, as an allocator may: in the post-return.
;; A result is 32 KiB of one byte: 1 from map, 2 from reduce, 3 from finish. A part that is not 1 or 2 all over is a trap.
(component
  (import "nearfield:data/shards@0.1.0" (instance $shards
    (export "shard" (type $shard (sub resource)))
  ))
  (alias export $shards "shard" (type $shard))

  (core module $memory
    (memory (export "memory") 64)
    (global $next (mut i32) (i32.const 131072))
    (func (export "realloc") (param i32 i32 i32) (param $len i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
      (global.set $next (i32.add (local.get $at) (local.get $len)))
      (local.get $at))
  )
  (core instance $m (instantiate $memory))
  (core func $drop' (canon resource.drop $shard))

  (core module $guest
    (import "m" "memory" (memory 1))
    (import "host" "drop" (func $drop (param i32)))

    ;; The answer `ok` with 32 KiB of $byte from 4096 on.
    (func $ok (param $byte i32) (result i32)
      (memory.fill (i32.const 4096) (local.get $byte) (i32.const 32768))
      (i32.store8 (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.const 4096))
      (i32.store (i32.const 8) (i32.const 32768))
      (i32.const 0))

    (func (export "free") (param i32)
      (memory.fill (i32.const 0) (i32.const 0xEE) (i32.const 65536)))

    ;; Traps unless the part is as long as it should be, of one byte that is 1 or 2.
    (func $check (param $at i32) (param $len i32)
      (local $n i32) (local $byte i32)
      (if (i32.ne (local.get $len) (i32.const 32768)) (then unreachable))
      (local.set $byte (i32.load8_u (local.get $at)))
      (if (i32.gt_u (i32.sub (local.get $byte) (i32.const 1)) (i32.const 1)) (then unreachable))
      (loop $again
        (if (i32.ne (i32.load8_u (i32.add (local.get $at) (local.get $n))) (local.get $byte)) (then unreachable))
        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (local.get $len)))))

    (func (export "map") (param $shard i32) (param i32 i32) (result i32)
      (call $drop (local.get $shard))
      (call $ok (i32.const 1)))

    (func (export "reduce") (param $parts i32) (param $count i32) (param i32 i32) (result i32)
      (loop $again
        (call $check (i32.load (local.get $parts)) (i32.load offset=4 (local.get $parts)))
        (local.set $parts (i32.add (local.get $parts) (i32.const 8)))
        (br_if $again (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
      (call $ok (i32.const 2)))

    (func (export "finish") (param $at i32) (param $len i32) (param i32 i32) (result i32)
      (call $check (local.get $at) (local.get $len))
      (call $ok (i32.const 3)))
  )
  (core instance $g (instantiate $guest
    (with "m" (instance $m))
    (with "host" (instance (export "drop" (func $drop'))))))

  (func $map (param "shard" (own $shard)) (param "args" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $g "map") (memory $m "memory") (realloc (func $m "realloc")) (post-return (func $g "free"))))
  (func $reduce (param "parts" (list (list u8))) (param "args" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $g "reduce") (memory $m "memory") (realloc (func $m "realloc")) (post-return (func $g "free"))))
  (func $finish (param "total" (list u8)) (param "args" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $g "finish") (memory $m "memory") (realloc (func $m "realloc")) (post-return (func $g "free"))))
  (instance $mapper (export "map" (func $map)))
  (instance $reducer (export "reduce" (func $reduce)))
  (instance $finisher (export "finish" (func $finish)))
  (export "nearfield:compute/mapper@0.1.0" (instance $mapper))
  (export "nearfield:compute/reducer@0.1.0" (instance $reducer))
  (export "nearfield:compute/finisher@0.1.0" (instance $finisher))
)
