//! What a module may call: WASI preview 1 without sockets, links and other processes. What is ours is in [`super::ours`].
//!
//! Numbers and layouts are those of the `wasi_snapshot_preview1` interface. Every call looks first whether the task was stopped.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use wasmi::{Caller, Error, Extern, Linker};

use super::ours;
use super::task::Task;

const WASI: &str = "wasi_snapshot_preview1";

/// Pieces of memory in one read or write.
const PIECES_MAX: u32 = 1024;
/// Events in one wait.
const EVENTS_MAX: u32 = 1024;
/// Bytes of random data at a time.
const RANDOM_BYTES_MAX: u32 = 1 << 20;

/// An error number of WASI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errno(pub(super) i32);

impl Errno {
    pub(super) const ACCES: Self = Self(2);
    pub(super) const BADF: Self = Self(8);
    pub(super) const DQUOT: Self = Self(19);
    pub(super) const EXIST: Self = Self(20);
    pub(super) const FAULT: Self = Self(21);
    pub(super) const FBIG: Self = Self(22);
    pub(super) const ILSEQ: Self = Self(25);
    pub(super) const INVAL: Self = Self(28);
    pub(super) const IO: Self = Self(29);
    pub(super) const ISDIR: Self = Self(31);
    pub(super) const LOOP: Self = Self(32);
    pub(super) const MFILE: Self = Self(33);
    pub(super) const NAMETOOLONG: Self = Self(37);
    pub(super) const NOENT: Self = Self(44);
    pub(super) const NOMEM: Self = Self(48);
    pub(super) const NOSPC: Self = Self(51);
    const NOSYS: Self = Self(52);
    pub(super) const NOTDIR: Self = Self(54);
    pub(super) const NOTEMPTY: Self = Self(55);
    pub(super) const NOTSUP: Self = Self(58);
    pub(super) const PERM: Self = Self(63);
    pub(super) const ROFS: Self = Self(69);
    pub(super) const SPIPE: Self = Self(70);
    pub(super) const NOTCAPABLE: Self = Self(76);
}

pub(super) type Done = Result<(), Errno>;

/// What a module may ask for and is refused: so that those that only name it can be run.
const REFUSED_I32: &[(&str, usize)] = &[
    ("path_link", 7),
    ("path_readlink", 6),
    ("path_symlink", 5),
    ("fd_fdstat_set_flags", 2),
    ("fd_renumber", 2),
    ("proc_raise", 1),
    ("sock_accept", 3),
    ("sock_recv", 6),
    ("sock_send", 5),
    ("sock_shutdown", 2),
];

macro_rules! define {
    ($linker:ident, $module:expr, $($name:literal => |$memory:ident, $task:ident $(, $arg:ident : $ty:ty)*| $body:expr;)*) => {
        /// Whether a module may import that.
        pub(super) fn has(module: &str, name: &str) -> bool {
            (module == WASI && (matches!(name, $($name)|* | "proc_exit") || REFUSED_I32.iter().any(|(refused, _)| *refused == name)))
                || (module == ours::MODULE && ours::has(name))
        }

        fn define_each($linker: &mut Linker<Task>) -> Result<(), Error> {
            $($linker.func_wrap($module, $name, |mut caller: Caller<'_, Task> $(, $arg: $ty)*| -> Result<i32, Error> {
                enter(&mut caller, |$memory, $task| $body)
            })?;)*
            Ok(())
        }
    };
}

define! { linker, WASI,
    "args_get" => |memory, task, list: u32, bytes: u32| texts(memory, &task.args, list, bytes);
    "args_sizes_get" => |memory, task, count: u32, bytes: u32| text_sizes(memory, &task.args, count, bytes);
    "environ_get" => |memory, _task, list: u32, bytes: u32| texts(memory, &[], list, bytes);
    "environ_sizes_get" => |memory, _task, count: u32, bytes: u32| text_sizes(memory, &[], count, bytes);
    "clock_res_get" => |memory, _task, id: u32, at: u32| if id < 4 { put(memory, at, &1_u64.to_le_bytes()) } else { Err(Errno::INVAL) };
    "clock_time_get" => |memory, task, id: u32, _precision: u64, at: u32| put(memory, at, &clock(task, id)?.to_le_bytes());
    "poll_oneoff" => |memory, task, asked: u32, events: u32, count: u32, happened: u32| poll(memory, task, asked, events, count, happened);
    "random_get" => |memory, _task, at: u32, length: u32| random(memory, at, length);
    "sched_yield" => |_memory, _task| Ok(());
    "fd_advise" => |_memory, _task, _fd: u32, _offset: u64, _length: u64, _advice: u32| Ok(());
    "fd_allocate" => |_memory, _task, _fd: u32, _offset: u64, _length: u64| Err(Errno::NOTSUP);
    "fd_close" => |_memory, task, fd: u32| task.files.close(fd);
    "fd_datasync" => |_memory, task, fd: u32| task.files.sync(fd);
    "fd_sync" => |_memory, task, fd: u32| task.files.sync(fd);
    "fd_fdstat_get" => |memory, task, fd: u32, at: u32| put(memory, at, &task.files.fdstat(fd)?);
    "fd_fdstat_set_rights" => |_memory, _task, _fd: u32, _base: u64, _inheriting: u64| Err(Errno::NOTSUP);
    "fd_filestat_get" => |memory, task, fd: u32, at: u32| put(memory, at, &task.files.stat(fd)?);
    "fd_filestat_set_size" => |_memory, task, fd: u32, size: u64| task.files.set_size(fd, size);
    "fd_filestat_set_times" => |_memory, _task, _fd: u32, _accessed: u64, _modified: u64, _flags: u32| Err(Errno::NOTSUP);
    "fd_prestat_get" => |memory, task, fd: u32, at: u32| {
        let length = u32::try_from(task.files.preopened(fd)?.len()).map_err(|_| Errno::NAMETOOLONG)?;
        put(memory, at, &[0_u32.to_le_bytes(), length.to_le_bytes()].concat())
    };
    "fd_prestat_dir_name" => |memory, task, fd: u32, at: u32, room: u32| {
        let name = task.files.preopened(fd)?.as_bytes();
        if name.len() > room as usize { Err(Errno::NAMETOOLONG) } else { put(memory, at, name) }
    };
    "fd_read" => |memory, task, fd: u32, pieces: u32, count: u32, done: u32| read(memory, task, fd, pieces, count, done, None);
    "fd_pread" => |memory, task, fd: u32, pieces: u32, count: u32, offset: u64, done: u32| read(memory, task, fd, pieces, count, done, Some(offset));
    "fd_write" => |memory, task, fd: u32, pieces: u32, count: u32, done: u32| write(memory, task, fd, pieces, count, done, None);
    "fd_pwrite" => |memory, task, fd: u32, pieces: u32, count: u32, offset: u64, done: u32| write(memory, task, fd, pieces, count, done, Some(offset));
    "fd_readdir" => |memory, task, fd: u32, at: u32, room: u32, cookie: u64, done: u32| {
        let into = get_mut(memory, at, room)?;
        let used = task.files.read_dir(fd, into, cookie)?;
        put(memory, done, &used.to_le_bytes())
    };
    "fd_seek" => |memory, task, fd: u32, offset: i64, whence: u32, at: u32| put(memory, at, &task.files.seek(fd, offset, whence)?.to_le_bytes());
    "fd_tell" => |memory, task, fd: u32, at: u32| put(memory, at, &task.files.seek(fd, 0, 1)?.to_le_bytes());
    "path_create_directory" => |memory, task, fd: u32, path: u32, length: u32| task.files.make_dir(fd, text(memory, path, length)?);
    "path_filestat_get" => |memory, task, fd: u32, _follow: u32, path: u32, length: u32, at: u32| {
        let stat = task.files.stat_path(fd, text(memory, path, length)?)?;
        put(memory, at, &stat)
    };
    "path_filestat_set_times" => |_memory, _task, _fd: u32, _follow: u32, _path: u32, _length: u32, _accessed: u64, _modified: u64, _flags: u32| Err(Errno::NOTSUP);
    "path_open" => |memory, task, fd: u32, _follow: u32, path: u32, length: u32, how: u32, rights: u64, _inheriting: u64, flags: u32, at: u32| {
        let opened = task.files.open(fd, text(memory, path, length)?, how, rights, flags)?;
        put(memory, at, &opened.to_le_bytes())
    };
    "path_remove_directory" => |memory, task, fd: u32, path: u32, length: u32| task.files.remove(fd, text(memory, path, length)?, true);
    "path_rename" => |memory, task, from_fd: u32, from: u32, from_length: u32, to_fd: u32, to: u32, to_length: u32| {
        task.files.rename(from_fd, text(memory, from, from_length)?, to_fd, text(memory, to, to_length)?)
    };
    "path_unlink_file" => |memory, task, fd: u32, path: u32, length: u32| task.files.remove(fd, text(memory, path, length)?, false);
}

/// Makes everything known that a module may call.
pub(super) fn define(linker: &mut Linker<Task>) -> Result<(), Error> {
    define_each(linker)?;
    linker.func_wrap(WASI, "proc_exit", |_caller: Caller<'_, Task>, code: i32| -> Result<(), Error> { Err(Error::i32_exit(code)) })?;
    ours::define(linker)?;
    for (name, count) in REFUSED_I32 {
        let ty = wasmi::FuncType::new(vec![wasmi::ValType::I32; *count], [wasmi::ValType::I32]);
        linker.func_new(WASI, name, ty, |_caller, _params, results| {
            results[0] = wasmi::Val::I32(Errno::NOSYS.0);
            Ok(())
        })?;
    }
    Ok(())
}

/// Does one call with the module's memory at hand.
pub(super) fn enter(caller: &mut Caller<'_, Task>, act: impl FnOnce(&mut [u8], &mut Task) -> Done) -> Result<i32, Error> {
    if caller.data().running.is_stopped() {
        return Err(Error::new("it was stopped"));
    }
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(Error::new("it has no memory of the name `memory`"));
    };
    let (memory, task) = memory.data_and_store_mut(caller);
    let done = act(memory, task);
    if task.overflown || task.running.is_stopped() {
        return Err(Error::new("it was stopped"));
    }
    Ok(done.map_or_else(|errno| errno.0, |()| 0))
}

pub(super) fn get(memory: &[u8], at: u32, length: u32) -> Result<&[u8], Errno> {
    memory.get(at as usize..at as usize + length as usize).ok_or(Errno::FAULT)
}

fn get_mut(memory: &mut [u8], at: u32, length: u32) -> Result<&mut [u8], Errno> {
    memory.get_mut(at as usize..at as usize + length as usize).ok_or(Errno::FAULT)
}

pub(super) fn put(memory: &mut [u8], at: u32, bytes: &[u8]) -> Done {
    memory.get_mut(at as usize..at as usize + bytes.len()).ok_or(Errno::FAULT)?.copy_from_slice(bytes);
    Ok(())
}

fn number(memory: &[u8], at: u32) -> Result<u32, Errno> {
    Ok(u32::from_le_bytes(get(memory, at, 4)?.try_into().expect("four bytes were asked for")))
}

fn long_number(memory: &[u8], at: u32) -> Result<u64, Errno> {
    Ok(u64::from_le_bytes(get(memory, at, 8)?.try_into().expect("eight bytes were asked for")))
}

fn text(memory: &[u8], at: u32, length: u32) -> Result<&str, Errno> {
    std::str::from_utf8(get(memory, at, length)?).map_err(|_| Errno::ILSEQ)
}

fn texts(memory: &mut [u8], texts: &[String], list: u32, bytes: u32) -> Done {
    let (mut list, mut at) = (list, bytes);
    for text in texts {
        put(memory, list, &at.to_le_bytes())?;
        put(memory, at, text.as_bytes())?;
        at = at.checked_add(u32::try_from(text.len()).map_err(|_| Errno::FAULT)?).ok_or(Errno::FAULT)?;
        put(memory, at, &[0])?;
        at = at.checked_add(1).ok_or(Errno::FAULT)?;
        list = list.checked_add(4).ok_or(Errno::FAULT)?;
    }
    Ok(())
}

fn text_sizes(memory: &mut [u8], texts: &[String], count: u32, bytes: u32) -> Done {
    let size = |n: usize| u32::try_from(n).map(u32::to_le_bytes).map_err(|_| Errno::FAULT);
    put(memory, count, &size(texts.len())?)?;
    put(memory, bytes, &size(texts.iter().map(|text| text.len() + 1).sum())?)
}

/// Nanoseconds.
fn clock(task: &Task, id: u32) -> Result<u64, Errno> {
    let time = match id {
        0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        // From the task's beginning: how long the host has been up is none of its business.
        1..=3 => task.began.elapsed(),
        _ => return Err(Errno::INVAL),
    };
    Ok(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn random(memory: &mut [u8], at: u32, length: u32) -> Done {
    if length > RANDOM_BYTES_MAX {
        return Err(Errno::INVAL);
    }
    let mut left = get_mut(memory, at, length)?;
    while !left.is_empty() {
        let n = rustix::io::retry_on_intr(|| getrandom(&mut *left, GetRandomFlags::empty())).map_err(|_| Errno::IO)?;
        left = &mut left[n..];
    }
    Ok(())
}

/// Where the pieces of a read or write are.
fn pieces(memory: &[u8], list: u32, count: u32) -> Result<Vec<(u32, u32)>, Errno> {
    if count > PIECES_MAX {
        return Err(Errno::INVAL);
    }
    let piece = |n: u32| {
        let entry = list.checked_add(8 * n).ok_or(Errno::FAULT)?;
        let (at, length) = (number(memory, entry)?, number(memory, entry.checked_add(4).ok_or(Errno::FAULT)?)?);
        get(memory, at, length).map(|_| (at, length))
    };
    (0..count).map(piece).collect()
}

fn read(memory: &mut [u8], task: &mut Task, fd: u32, list: u32, count: u32, done: u32, offset: Option<u64>) -> Done {
    let mut total = 0_u32;
    for (at, length) in pieces(memory, list, count)? {
        let into = get_mut(memory, at, length)?;
        let n = if fd == 0 {
            if offset.is_some() {
                return Err(Errno::SPIPE);
            }
            let rest = &task.input[task.input_at..];
            let n = rest.len().min(into.len());
            into[..n].copy_from_slice(&rest[..n]);
            task.input_at += n;
            n
        } else {
            task.files.read(fd, into, offset.map(|offset| offset.saturating_add(total.into())))?
        };
        total = total.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        if n < length as usize {
            break;
        }
    }
    put(memory, done, &total.to_le_bytes())
}

fn write(memory: &mut [u8], task: &mut Task, fd: u32, list: u32, count: u32, done: u32, offset: Option<u64>) -> Done {
    let mut total = 0_u32;
    for (at, length) in pieces(memory, list, count)? {
        let from = get(memory, at, length)?;
        let n = match fd {
            1 | 2 if offset.is_some() => return Err(Errno::SPIPE),
            1 if task.write_output(from) => from.len(),
            1 => return Err(Errno::NOSPC),
            2 => {
                task.print(from);
                from.len()
            }
            _ => task.files.write(fd, from, offset.map(|offset| offset.saturating_add(total.into())))?,
        };
        total = total.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        if n < from.len() {
            break;
        }
    }
    put(memory, done, &total.to_le_bytes())
}

/// Waits for a time; files and pipes are ready at any time.
fn poll(memory: &mut [u8], task: &mut Task, asked: u32, events: u32, count: u32, happened: u32) -> Done {
    if count == 0 || count > EVENTS_MAX {
        return Err(Errno::INVAL);
    }
    let mut subscriptions = Vec::new();
    for n in 0..count {
        let at = asked.checked_add(48 * n).ok_or(Errno::FAULT)?;
        let field = |offset: u32| at.checked_add(offset).ok_or(Errno::FAULT);
        let (user, kind) = (long_number(memory, at)?, get(memory, field(8)?, 1)?[0]);
        let wait = match kind {
            0 => {
                let (id, timeout) = (number(memory, field(16)?)?, long_number(memory, field(24)?)?);
                let absolute = get(memory, field(40)?, 2)?[0] & 1 == 1;
                Duration::from_nanos(if absolute { timeout.saturating_sub(clock(task, id)?) } else { timeout })
            }
            1 | 2 => Duration::ZERO,
            _ => return Err(Errno::INVAL),
        };
        subscriptions.push((user, kind, wait));
    }
    let wait = subscriptions.iter().map(|(.., wait)| *wait).min().unwrap_or_default();
    task.running.sleep(wait);
    let mut written = 0_u32;
    for (user, kind, _) in subscriptions.into_iter().filter(|(.., own)| *own <= wait) {
        let mut event = [0; 32];
        event[..8].copy_from_slice(&user.to_le_bytes());
        event[10] = kind;
        if kind != 0 {
            event[16..24].copy_from_slice(&1_u64.to_le_bytes());
        }
        put(memory, events.checked_add(32 * written).ok_or(Errno::FAULT)?, &event)?;
        written += 1;
    }
    put(memory, happened, &written.to_le_bytes())
}
