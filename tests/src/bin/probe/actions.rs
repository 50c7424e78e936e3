//! What a test can ask of the probe: small actions, in a row when joined by the word `then`.
//!
//! `probe write /srv/ready yes then sleep 5 then exit 3`

use crate::{demo, network, report, sys};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an action waits for something that another process does.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Runs all actions; the result is the exit code.
pub(crate) fn run(words: &[String]) -> Result<u8> {
    for action in words.split(|word| word == "then") {
        let words: Vec<&str> = action.iter().map(String::as_str).collect();
        if let Some(code) = one(&words).with_context(|| words.join(" "))? {
            return Ok(code);
        }
        std::io::stdout().flush()?;
    }
    Ok(0)
}

/// Runs one action; `Some` ends the program.
fn one(words: &[&str]) -> Result<Option<u8>> {
    match words {
        [] => {}
        ["report"] => println!("{}", serde_json::to_string(&report::report()?)?),
        ["demo"] => demo::print()?,
        #[cfg(target_arch = "x86_64")]
        ["cpuid"] => println!("{}", crate::cpuid::read()),
        ["true"] => return Ok(Some(0)),
        ["exit", code] => return Ok(Some(code.parse()?)),
        ["print", words @ ..] => println!("{}", words.join(" ")),
        ["complain", words @ ..] => eprintln!("{}", words.join(" ")),
        ["environment", name] => println!("{}", std::env::var(name).unwrap_or_else(|_| "unset".to_owned())),
        ["syscall", number] => println!("{}", report::one_syscall(number.parse()?)?),
        ["without-seccomp", program, arguments @ ..] => {
            sys::hide_seccomp()?;
            return Err(std::process::Command::new(program).args(arguments).exec().into());
        }
        ["exec", program, arguments @ ..] => {
            return Err(std::process::Command::new(program).args(arguments).exec().into());
        }
        [word, ..] if word.starts_with("file-") => file(words)?,
        [word, ..] if word.starts_with("process-") => return process(words),
        [word, ..] if word.starts_with("net-") => net(words)?,
        _ => stream(words)?,
    }
    Ok(None)
}

fn file(words: &[&str]) -> Result<()> {
    match words {
        ["file-write", path, text @ ..] => fs::write(path, text.join(" "))?,
        ["file-append", path, text @ ..] => {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(path)?;
            writeln!(file, "{}", text.join(" "))?;
        }
        ["file-read", path] => println!("{}", String::from_utf8_lossy(&fs::read(path)?).trim_end()),
        // One is open at a time.
        ["file-read-all", directory] => {
            let files = fs::read_dir(directory)?.map(|entry| Ok(fs::read(entry?.path())?));
            println!("read {} files", files.collect::<Result<Vec<_>>>()?.len());
        }
        ["file-create-many", directory, count] => {
            for number in 0..count.parse::<u32>()? {
                fs::File::create(Path::new(directory).join(number.to_string()))?;
            }
        }
        ["file-try-write", path] => println!("{}", report::open_word(Path::new(path), false, true)),
        ["file-try-create", path] => {
            let created = fs::OpenOptions::new().write(true).create_new(true).open(path);
            let word = created.map_or_else(
                |error| error.raw_os_error().map(crate::syscalls::errno_name).unwrap_or_default(),
                |_| "ok".to_owned(),
            );
            println!("{word}");
        }
        ["file-fill", path] => println!("{}", fill(Path::new(path))?),
        ["file-look", paths @ ..] => println!("{}", report::looks(paths)),
        ["file-fifo", path] => nix::unistd::mkfifo(*path, nix::sys::stat::Mode::from_bits_truncate(0o644))?,
        ["file-bytes", path, bytes] => fs::write(path, vec![b'#'; bytes.parse()?])?,
        ["file-remount-writable", path] => {
            let flags = nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_BIND;
            let mounted = nix::mount::mount(None::<&str>, *path, None::<&str>, flags, None::<&str>);
            println!(
                "{}",
                mounted.map_or_else(|errno| crate::syscalls::errno_name(errno as i32), |()| "ok".to_owned())
            );
        }
        ["file-label", path] => {
            let mut label = vec![0; 256];
            let length = rustix::fs::getxattr(*path, "security.selinux", &mut label[..])?;
            println!("{}", String::from_utf8_lossy(&label[..length]).trim_matches('\0'));
        }
        ["file-exists", path] => println!("{}", fs::symlink_metadata(path).is_ok()),
        ["file-link", path, target] => std::os::unix::fs::symlink(target, path)?,
        ["file-remove", path] => fs::remove_file(path)?,
        ["file-directory", path] => fs::create_dir_all(path)?,
        ["file-remove-directory", path] => fs::remove_dir(path)?,
        ["file-stat", path] => {
            use std::os::unix::fs::MetadataExt;
            let metadata = fs::symlink_metadata(path)?;
            println!("{}:{} {:04o}", metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
        }
        ["file-list", path] => {
            let mut names: Vec<_> = fs::read_dir(path)?.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            println!("{}", names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(" "));
        }
        ["file-await", path] => wait_until(|| fs::symlink_metadata(path).is_ok())?,
        ["file-await-gone", path] => wait_until(|| fs::symlink_metadata(path).is_err())?,
        _ => bail!("no such action"),
    }
    Ok(())
}

/// Appends until that fails, and says why, and what came in.
fn fill(path: &Path) -> Result<String> {
    let mut file = fs::OpenOptions::new().append(true).open(path)?;
    for kib in 0.. {
        if let Err(error) = file.write_all(&[b'#'; 1024]) {
            let word = error.raw_os_error().map(crate::syscalls::errno_name).unwrap_or_default();
            return Ok(format!("{word} after KiB {kib}"));
        }
    }
    bail!("there is no end")
}

fn wait_until(condition: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !condition() {
        if begin.elapsed() > WAIT_MAX {
            bail!("waited {} s in vain", WAIT_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn process(words: &[&str]) -> Result<Option<u8>> {
    match words {
        ["process-sleep", seconds] => std::thread::sleep(Duration::from_secs_f64(seconds.parse()?)),
        ["process-signal", number] => {
            let signal = Signal::try_from(number.parse::<i32>()?)?;
            // The Rust runtime catches SIGSEGV and ignores SIGPIPE.
            sys::default_action(signal)?;
            raise(signal)?;
        }
        ["process-kill", pid, number] => {
            let result = kill(Pid::from_raw(pid.parse()?), Signal::try_from(number.parse::<i32>()?)?);
            println!("{}", result.map_or_else(|errno| format!("{errno:?}"), |()| "ok".to_owned()));
        }
        // Blocks the signals, so that one which arrives before `process-await-signal` is not lost.
        ["process-trap", numbers @ ..] => signals(numbers)?.thread_block()?,
        ["process-await-signal", numbers @ ..] => println!("signal {}", signals(numbers)?.wait()? as i32),
        ["process-memory", mebibytes] => {
            let bytes = mebibytes.parse::<usize>()? << 20;
            // Not zero, so that every page is really written.
            let memory = vec![1u8; bytes];
            println!("used {}", std::hint::black_box(&memory).len() >> 20);
            // What follows runs with the memory in use.
            std::mem::forget(memory);
        }
        ["process-fork", count] => println!("forked {}", fork_sleepers(count.parse()?)?),
        ["process-keyring"] => {
            let number = sys::session_keyring();
            println!("{}", number.map_or_else(crate::syscalls::errno_name, |number| number.to_string()));
        }
        ["process-seize", pid] => {
            let pid = Pid::from_raw(pid.parse()?);
            let seized = nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty());
            println!("{}", seized.map_or_else(|errno| crate::syscalls::errno_name(errno as i32), |()| "ok".to_owned()));
        }
        ["process-orphan", seconds] => orphan(Duration::from_secs_f64(seconds.parse()?))?,
        ["process-mount", path] => {
            let flags = nix::mount::MsFlags::empty();
            let result = nix::mount::mount(Some("tmpfs"), *path, Some("tmpfs"), flags, None::<&str>);
            println!("{}", result.map_or_else(|errno| format!("{errno:?}"), |()| "ok".to_owned()));
        }
        ["process-umask"] => {
            let mask = crate::kernel::status().get("Umask").cloned().unwrap_or_default();
            println!("{mask}");
        }
        ["process-count"] => println!("{}", processes()?),
        ["process-await-count", count] => {
            let count: usize = count.parse()?;
            wait_until(|| processes().is_ok_and(|found| found == count))?;
        }
        ["process-burn", seconds] => burn(Duration::from_secs_f64(seconds.parse()?))?,
        _ => bail!("no such action"),
    }
    Ok(None)
}

/// How many processes there are in the pod.
fn processes() -> Result<usize> {
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count())
}

fn signals(numbers: &[&str]) -> Result<SigSet> {
    let mut set = SigSet::empty();
    for number in numbers {
        set.add(Signal::try_from(number.parse::<i32>()?)?);
    }
    Ok(set)
}

/// Forks up to `count` children that sleep, and says how many the kernel gave.
fn fork_sleepers(count: usize) -> Result<usize> {
    let mut children = Vec::new();
    for _ in 0..count {
        match std::process::Command::new("/proc/self/exe").args(["process-sleep", "60"]).spawn() {
            Ok(child) => children.push(child),
            Err(_) => break, // The pids limit; how far we came is the answer.
        }
    }
    let reached = children.len();
    for mut child in children {
        child.kill()?;
        child.wait()?;
    }
    Ok(reached)
}

/// Leaves a grandchild behind whose parent is gone, so that PID 1 of the pod has to reap it.
fn orphan(life: Duration) -> Result<()> {
    sys::in_child(|| {
        let _ = sys::in_child_detached(|| {
            std::thread::sleep(life);
            0
        });
        0
    })?;
    Ok(())
}

/// Spins for `time` by the clock, and says which share of it was given: 100 is a whole CPU.
fn burn(time: Duration) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = Duration::new(used.tv_sec.try_into()?, used.tv_nsec.try_into()?);
    println!("percent {:.0}", 100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64());
    Ok(())
}

fn net(words: &[&str]) -> Result<()> {
    match words {
        ["net-serve", port, text @ ..] => {
            let listener = TcpListener::bind(("127.0.0.1", port.parse()?))?;
            let (mut stream, _) = listener.accept()?;
            stream.write_all(text.join(" ").as_bytes())?;
        }
        ["net-ask", port] => {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port.parse()?));
            let begin = Instant::now();
            let mut stream = loop {
                match TcpStream::connect_timeout(&address, WAIT_MAX) {
                    Ok(stream) => break stream,
                    Err(error) if begin.elapsed() > WAIT_MAX => return Err(error.into()),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)), // The server is not there yet.
                }
            };
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            println!("{text}");
        }
        ["net-try", address] => {
            let connected = TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(2));
            println!("{}", connected.map_or_else(|error| error.kind().to_string(), |_| "connected".to_owned()));
        }
        ["net-notify", text] => {
            let path = std::env::var("NOTIFY_SOCKET").context("NOTIFY_SOCKET")?;
            std::os::unix::net::UnixDatagram::unbound()?.send_to(text.as_bytes(), path)?;
        }
        _ => network::act(words)?,
    }
    Ok(())
}

fn stream(words: &[&str]) -> Result<()> {
    use std::io::{IsTerminal, stderr, stdin, stdout};
    match words {
        ["stream-copy"] => {
            std::io::copy(&mut stdin(), &mut stdout())?;
        }
        ["stream-line"] => {
            let mut line = String::new();
            stdin().read_line(&mut line)?;
            println!("line {}", line.trim_end());
        }
        ["stream-terminal"] => {
            let which = [stdin().is_terminal(), stdout().is_terminal(), stderr().is_terminal()];
            println!("terminal {which:?}");
        }
        ["stream-size"] => {
            let size = rustix::termios::tcgetwinsize(stdin())?;
            println!("size {}x{}", size.ws_row, size.ws_col);
        }
        ["stream-bytes", count] => {
            let mut left = count.parse::<usize>()?;
            let line = [b'x'; 4096];
            while left > 0 {
                let length = left.min(line.len());
                stdout().write_all(&line[..length])?;
                left -= length;
            }
        }
        _ => bail!("no such action"),
    }
    Ok(())
}
