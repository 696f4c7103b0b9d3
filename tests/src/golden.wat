;; A job whose every instruction is fixed: what it costs and returns is what the pure lane means.
(component
  (import "nearfield:data/shards@0.1.0" (instance $shards
    (export "shard" (type $shard (sub resource)))
    (export "[method]shard.size" (func (param "self" (borrow $shard)) (result u64)))
  ))
  (import "wasi:random/insecure-seed@0.2.0" (instance $seed
    (export "insecure-seed" (func (result (tuple u64 u64))))
  ))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (export "now" (func (result u64)))
  ))
  (alias export $shards "shard" (type $shard))
  (alias export $shards "[method]shard.size" (func $size))
  (alias export $seed "insecure-seed" (func $seed-of))
  (alias export $clock "now" (func $now))

  (core module $memory
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32) (param $len i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
      (global.set $next (i32.add (local.get $at) (local.get $len)))
      (local.get $at))
  )
  (core instance $m (instantiate $memory))
  (core func $size' (canon lower (func $size)))
  (core func $seed' (canon lower (func $seed-of) (memory $m "memory")))
  (core func $now' (canon lower (func $now)))
  (core func $drop' (canon resource.drop $shard))

  (core module $guest
    (import "m" "memory" (memory 1))
    (import "host" "size" (func $size (param i32) (result i64)))
    (import "host" "seed" (func $seed (param i32)))
    (import "host" "now" (func $now (result i64)))
    (import "host" "drop" (func $drop (param i32)))

    ;; The answer `ok` with $len bytes from 256 on.
    (func $ok (param $len i32) (result i32)
      (i32.store8 (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.const 256))
      (i32.store (i32.const 8) (local.get $len))
      (i32.const 0))

    (func (export "map") (param $shard i32) (param $args i32) (param $len i32) (result i32)
      (local $n i32) (local $sum i64)
      ;; What the shard is.
      (i64.store (i32.const 256) (call $size (local.get $shard)))
      ;; A loop of integers.
      (loop $again
        (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.extend_i32_u (local.get $n))))
        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000))))
      (i64.store (i32.const 264) (local.get $sum))
      ;; Numbers that are none, whose bits processors make differently.
      (f32.store (i32.const 272) (f32.div (f32.const 0) (f32.const 0)))
      (f64.store (i32.const 280) (f64.sqrt (f64.const -1)))
      (f64.store (i32.const 288) (f64.add (f64.const nan:0xc000000000001) (f64.const 1)))
      ;; Memory that grows, is filled and copied.
      (i32.store (i32.const 296) (memory.grow (i32.const 3)))
      (memory.fill (i32.const 65536) (i32.const 7) (i32.const 100000))
      (memory.copy (i32.const 170000) (i32.const 65536) (i32.const 20000))
      (i64.store (i32.const 304) (i64.load (i32.const 189992)))
      ;; What the world looks like.
      (i64.store (i32.const 312) (call $now))
      (call $seed (i32.const 320))
      ;; And the arguments.
      (memory.copy (i32.const 336) (local.get $args) (local.get $len))
      (call $drop (local.get $shard))
      (call $ok (i32.add (i32.const 80) (local.get $len))))
  )
  (core instance $g (instantiate $guest
    (with "m" (instance $m))
    (with "host" (instance
      (export "size" (func $size'))
      (export "seed" (func $seed'))
      (export "now" (func $now'))
      (export "drop" (func $drop'))))))

  (func $map (param "shard" (own $shard)) (param "args" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $g "map") (memory $m "memory") (realloc (func $m "realloc"))))
  (instance $mapper (export "map" (func $map)))
  (export "nearfield:compute/mapper@0.1.0" (instance $mapper))
)
