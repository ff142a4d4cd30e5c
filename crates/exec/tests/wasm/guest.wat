;; What a module may do, and what it must not be able to do: the first letter of its handler's name says which.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $arg_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "longshore" "next" (func $next (param i32 i32 i32) (result i32)))
  (import "longshore" "next_answer" (func $next_answer (param i32 i32) (result i32)))
  (memory (export "memory") 17)

  (data (i32.const 256) "{\"outputs\":{\"done\":true}}")
  (data (i32.const 300) "it went wrong\n")
  (data (i32.const 320) "no object")
  (data (i32.const 340) "begun")
  (data (i32.const 350) "until")
  (data (i32.const 360) "made/file.txt")
  (data (i32.const 380) "made")
  (data (i32.const 390) "../escape")
  (data (i32.const 400) "/etc/passwd")
  (data (i32.const 420) "link/passwd")
  (data (i32.const 440) "moved")
  (data (i32.const 450) "pipe")
  (data (i32.const 2000) "{\"payload\":{\"k\":1},\"middleware_ctx\":{\"m\":2}}")
  (data (i32.const 2100) "{\"timeout_ms\":20}")
  (data (i32.const 2200) "{\"payload\":1}")
  (data (i32.const 2300) "{\"outputs\":")
  (data (i32.const 2320) "}")

  (func $put (param $fd i32) (param $at i32) (param $length i32) (result i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
  (func $done (drop (call $put (i32.const 1) (i32.const 256) (i32.const 25))))
  (func $expect (param $is i32) (param $should i32)
    (if (i32.ne (local.get $is) (local.get $should)) (then (call $exit (i32.add (i32.const 100) (local.get $is))))))
  (func $make (param $at i32) (param $length i32) (result i32)
    (call $open (i32.const 4) (i32.const 0) (local.get $at) (local.get $length) (i32.const 1) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 16)))
  (func $sleep (param $nanoseconds i64)
    (i64.store (i32.const 512) (i64.const 7))
    (i64.store (i32.const 520) (i64.const 0))
    (i32.store (i32.const 528) (i32.const 1))
    (i64.store (i32.const 536) (local.get $nanoseconds))
    (i64.store (i32.const 552) (i64.const 0))
    (call $expect (call $poll (i32.const 512) (i32.const 600) (i32.const 1) (i32.const 640)) (i32.const 0)))
  (func $deeper (param i32) (result i32) (i32.add (i32.const 1) (call $deeper (i32.add (local.get 0) (i32.const 1)))))

  (func $waits
    (call $expect (call $make (i32.const 340) (i32.const 5)) (i32.const 0))
    (loop $again
      (call $sleep (i64.const 5000000))
      (br_if $again (call $stat (i32.const 4) (i32.const 0) (i32.const 350) (i32.const 5) (i32.const 700))))
    (call $done))

  (func $uses_files (local $fd i32)
    (call $expect (call $mkdir (i32.const 4) (i32.const 380) (i32.const 4)) (i32.const 0))
    (call $expect (call $make (i32.const 360) (i32.const 13)) (i32.const 0))
    (local.set $fd (i32.load (i32.const 16)))
    (call $expect (call $put (local.get $fd) (i32.const 300) (i32.const 13)) (i32.const 0))
    ;; Read again from the third byte.
    (call $expect (call $seek (local.get $fd) (i64.const 3) (i32.const 0) (i32.const 24)) (i32.const 0))
    (i32.store (i32.const 0) (i32.const 800))
    (i32.store (i32.const 4) (i32.const 100))
    (call $expect (call $read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)) (i32.const 0))
    (call $expect (i32.load (i32.const 8)) (i32.const 10))
    (call $expect (i32.load8_u (i32.const 800)) (i32.const 119))
    ;; A hole far behind the end is too large.
    (call $expect (call $seek (local.get $fd) (i64.const 2000000000) (i32.const 0) (i32.const 24)) (i32.const 0))
    (call $expect (call $put (local.get $fd) (i32.const 300) (i32.const 13)) (i32.const 22))
    (call $expect (call $close (local.get $fd)) (i32.const 0))
    (call $expect (call $close (local.get $fd)) (i32.const 8))
    (call $expect (call $readdir (i32.const 4) (i32.const 800) (i32.const 1000) (i64.const 0) (i32.const 8)) (i32.const 0))
    (call $expect (i32.load (i32.const 8)) (i32.const 84))
    (call $expect (call $rmdir (i32.const 4) (i32.const 380) (i32.const 4)) (i32.const 55))
    (call $expect (call $rename (i32.const 4) (i32.const 360) (i32.const 13) (i32.const 4) (i32.const 440) (i32.const 5)) (i32.const 0))
    (call $expect (call $rmdir (i32.const 4) (i32.const 380) (i32.const 4)) (i32.const 0))
    (call $expect (call $unlink (i32.const 4) (i32.const 380) (i32.const 4)) (i32.const 44))
    ;; What lies outside, by name, by path and by a link; a pipe; and what is not there at all.
    (call $expect (call $make (i32.const 390) (i32.const 9)) (i32.const 76))
    (call $expect (call $make (i32.const 400) (i32.const 11)) (i32.const 76))
    (call $expect (call $make (i32.const 420) (i32.const 11)) (i32.const 54))
    (call $expect (call $make (i32.const 450) (i32.const 4)) (i32.const 2))
    (call $expect (call $symlink (i32.const 400) (i32.const 11) (i32.const 4) (i32.const 440) (i32.const 5)) (i32.const 52))
    (call $expect (call $send (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 8)) (i32.const 52))
    (call $expect (call $prestat (i32.const 5) (i32.const 24)) (i32.const 8))
    (call $expect (call $make (i32.const -8) (i32.const 100)) (i32.const 21))
    (call $expect (call $random (i32.const 800) (i32.const 16)) (i32.const 0))
    (call $expect (call $clock (i32.const 0) (i64.const 0) (i32.const 24)) (i32.const 0))
    (call $expect (call $environ_sizes (i32.const 24) (i32.const 28)) (i32.const 0))
    (call $expect (i32.load (i32.const 24)) (i32.const 0))
    (call $done))

  ;; Calls the next element of its chain, and gives its answer as its own.
  (func $asks (param $at i32) (param $length i32) (local $size i32)
    (call $expect (call $next (local.get $at) (local.get $length) (i32.const 24)) (i32.const 0))
    (local.set $size (i32.load (i32.const 24)))
    (call $expect (call $next_answer (i32.const 131072) (i32.sub (local.get $size) (i32.const 1))) (i32.const 28))
    (call $expect (call $next_answer (i32.const -8) (local.get $size)) (i32.const 21))
    (call $expect (call $next_answer (i32.const 131072) (local.get $size)) (i32.const 0))
    (drop (call $put (i32.const 1) (i32.const 2300) (i32.const 11)))
    (drop (call $put (i32.const 1) (i32.const 131072) (local.get $size)))
    (drop (call $put (i32.const 1) (i32.const 2320) (i32.const 1))))

  ;; What is no request is told, and so is an answer that could not be told of.
  (func $asks_amiss
    (call $expect (call $next (i32.const 2200) (i32.const 13) (i32.const 24)) (i32.const 28))
    (call $expect (call $next (i32.const -8) (i32.const 100) (i32.const 24)) (i32.const 21))
    (call $expect (call $next (i32.const 2000) (i32.const 2000000) (i32.const 24)) (i32.const 28))
    (call $expect (call $next (i32.const 2000) (i32.const 44) (i32.const -2)) (i32.const 21))
    (call $expect (call $next_answer (i32.const 131072) (i32.const 0)) (i32.const 0))
    (call $done))

  (func $opens_many (local $n i32)
    (loop $again
      (if (call $make (i32.const 340) (i32.const 5)) (then (call $expect (i32.const 62) (local.get $n)) (call $done) (return)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br $again)))

  (func (export "_start") (local $what i32)
    (call $expect (call $arg_sizes (i32.const 0) (i32.const 4)) (i32.const 0))
    (call $expect (call $args (i32.const 16) (i32.const 65536)) (i32.const 0))
    (local.set $what (i32.load8_u (i32.load (i32.const 20))))
    (if (i32.eq (local.get $what) (i32.const 97)) (then (call $done)))                         ;; answers
    (if (i32.eq (local.get $what) (i32.const 119)) (then (call $waits)))                       ;; waits
    (if (i32.eq (local.get $what) (i32.const 117)) (then (call $uses_files)))                  ;; uses_files
    (if (i32.eq (local.get $what) (i32.const 111)) (then (call $opens_many)))                  ;; opens_many
    (if (i32.eq (local.get $what) (i32.const 99)) (then (call $asks (i32.const 2000) (i32.const 44))))  ;; calls_next
    (if (i32.eq (local.get $what) (i32.const 100)) (then (call $asks (i32.const 2100) (i32.const 17)))) ;; dawdles
    (if (i32.eq (local.get $what) (i32.const 120)) (then (call $asks_amiss)))                  ;; x_asks_amiss
    (if (i32.eq (local.get $what) (i32.const 108)) (then                                       ;; loops
      (call $expect (call $make (i32.const 340) (i32.const 5)) (i32.const 0))
      (loop $ever (br $ever))))
    (if (i32.eq (local.get $what) (i32.const 115)) (then                                       ;; sleeps
      (call $expect (call $make (i32.const 340) (i32.const 5)) (i32.const 0))
      (call $sleep (i64.const 1000000000000))))
    (if (i32.eq (local.get $what) (i32.const 103)) (then                                       ;; grows
      (loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))
      (if (i32.gt_u (memory.size) (i32.const 4096)) (then (call $exit (i32.const 9))))
      (call $done)))
    (if (i32.eq (local.get $what) (i32.const 116)) (then                                       ;; traps
      (drop (call $put (i32.const 2) (i32.const 300) (i32.const 14)))
      unreachable))
    (if (i32.eq (local.get $what) (i32.const 114)) (then (drop (call $deeper (i32.const 0))))) ;; recurses
    (if (i32.eq (local.get $what) (i32.const 109)) (then (drop (i32.load (i32.const -4)))))    ;; misses its memory
    (if (i32.eq (local.get $what) (i32.const 101)) (then                                       ;; exits
      (drop (call $put (i32.const 2) (i32.const 300) (i32.const 14)))
      (call $exit (i32.const 7))))
    (if (i32.eq (local.get $what) (i32.const 98)) (then                                        ;; babbles
      (drop (call $put (i32.const 1) (i32.const 320) (i32.const 9)))))
    (if (i32.eq (local.get $what) (i32.const 102)) (then                                       ;; floods
      (loop $ever
        (drop (call $put (i32.const 1) (i32.const 65536) (i32.const 1048576)))
        (br $ever))))
    (if (i32.eq (local.get $what) (i32.const 112)) (then                                       ;; prints
      (loop $ever
        (drop (call $put (i32.const 2) (i32.const 65536) (i32.const 1048576)))
        (br $ever))))))
