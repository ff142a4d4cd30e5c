;; A handler in the text form of WebAssembly, so that it can be read and run without a compiler. Whatever a compiler makes for
;; wasm32-wasip1 is used in the same way: see "WebAssembly" in docs/handlers.md.
;;
;; It says something while it runs, writes a file into its data directory, and answers {"outputs":{"request": what it was asked}}.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "longshore" "feedback" (func $feedback (param i32 i32) (result i32)))
  (memory (export "memory") 2)

  (data (i32.const 256) "{\"outputs\":{\"request\":")
  (data (i32.const 320) "}}")
  (data (i32.const 352) "answered.txt")
  (data (i32.const 384) "{\"progress\":0.5,\"message\":\"half way\"}")
  (data (i32.const 448) "echo of a task\n")

  ;; Writes `length` bytes from `at` to the descriptor `fd`.
  (func $put (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (if (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))

  (func (export "_start") (local $length i32) (local $got i32)
    ;; The request is on stdin; memory grows with it.
    (loop $more
      (if (i32.gt_u (i32.add (local.get $length) (i32.const 8192)) (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 1024)))
        (then (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))))
      (i32.store (i32.const 0) (i32.add (i32.const 1024) (local.get $length)))
      (i32.store (i32.const 4) (i32.const 8192))
      (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (local.set $got (i32.load (i32.const 8)))
      (local.set $length (i32.add (local.get $length) (local.get $got)))
      (br_if $more (local.get $got)))

    (drop (call $feedback (i32.const 384) (i32.const 37)))
    (call $put (i32.const 2) (i32.const 448) (i32.const 15))

    ;; Descriptor 4 is the task's data directory, for relative paths. 1: make it; 64: to write.
    (if (call $open (i32.const 4) (i32.const 0) (i32.const 352) (i32.const 12) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16))
      (then unreachable))
    (call $put (i32.load (i32.const 16)) (i32.const 1024) (local.get $length))

    (call $put (i32.const 1) (i32.const 256) (i32.const 22))
    (call $put (i32.const 1) (i32.const 1024) (local.get $length))
    (call $put (i32.const 1) (i32.const 320) (i32.const 2))))
