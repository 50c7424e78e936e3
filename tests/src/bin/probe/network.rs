//! What the probe sees of its network, and the little that it says over it.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How long an answer may take: a microVM may be emulated, on a machine that is busy.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A datagram may be lost on a wire that is just being set up, and is sent again.
const DATAGRAM_WAIT: Duration = Duration::from_secs(2);

/// Actions that begin with `net-` and reach beyond loopback.
pub(crate) fn act(words: &[&str]) -> Result<()> {
    match words {
        ["net-report"] => println!("{}", report()?),
        ["net-talk", "tcp", address, text] => {
            let mut stream = connect(address.parse()?)?;
            stream.write_all(text.as_bytes())?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            println!("{answer}");
        }
        ["net-talk", "udp", address, text] => println!("{}", datagram(address.parse()?, text)?),
        ["net-echo", address] => {
            let (mut stream, from) = TcpListener::bind(address.parse::<SocketAddr>()?)?.accept()?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            stream.write_all(text.as_bytes())?;
            println!("{} sent {text}", canonical(from.ip()));
        }
        ["net-bulk", address, mebibytes] => {
            let mebibytes = mebibytes.parse()?;
            let begin = Instant::now();
            bulk(connect(address.parse()?)?, mebibytes)?;
            eprintln!("{:.1} MiB/s each way", mebibytes as f64 / begin.elapsed().as_secs_f64());
            println!("{mebibytes} MiB came back");
        }
        ["net-latency", address, count] => latency(address.parse()?, count.parse()?)?,
        _ => bail!("no such action"),
    }
    Ok(())
}

fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// A server that is not there yet refuses, which takes a round trip.
fn connect(address: SocketAddr) -> Result<TcpStream> {
    let begin = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, WAIT_MAX) {
            Ok(stream) => {
                stream.set_read_timeout(Some(WAIT_MAX))?;
                return Ok(stream);
            }
            Err(error) if begin.elapsed() > WAIT_MAX => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn datagram(address: SocketAddr, text: &str) -> Result<String> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(DATAGRAM_WAIT))?;
    let mut buffer = [0; 2048];
    for _ in 0..10 {
        socket.send_to(text.as_bytes(), address)?;
        if let Ok(length) = socket.recv(&mut buffer) {
            return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    bail!("no answer from {address}")
}

/// Sends so many bytes to an echo, reads them at the same time, and compares.
fn bulk(stream: TcpStream, mebibytes: usize) -> Result<()> {
    let byte = |index: usize| (index % 251) as u8;
    let mut sender = stream.try_clone()?;
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        for chunk in 0..mebibytes << 4 {
            let bytes: Vec<u8> = (0..1 << 16).map(|index| byte((chunk << 16) + index)).collect();
            sender.write_all(&bytes)?;
        }
        sender.shutdown(std::net::Shutdown::Write)
    });
    let mut answer = std::io::BufReader::new(stream);
    // The server says who sent, first.
    let mut word = Vec::new();
    while !word.ends_with(b" sent ") {
        let mut next = [0];
        answer.read_exact(&mut next)?;
        word.push(next[0]);
    }
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        let length = answer.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        for (index, got) in buffer[..length].iter().enumerate() {
            ensure!(*got == byte(total + index), "byte {} is another", total + index);
        }
        total += length;
    }
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    ensure!(total == mebibytes << 20, "{total} bytes came back");
    Ok(())
}

/// The median round trip of one datagram.
fn latency(address: SocketAddr, count: usize) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        datagram(address, "x")?;
        times.push(begin.elapsed());
    }
    times.sort();
    println!("median {} us", times.get(count / 2).context("none")?.as_micros());
    Ok(())
}

fn report() -> Result<Value> {
    Ok(json!({ "interfaces": interfaces()?, "routes": routes(), "neighbours": neighbours() }))
}

fn interfaces() -> Result<Value> {
    let addresses: Vec<_> = nix::ifaddrs::getifaddrs()?.collect();
    let mut found = Map::new();
    for entry in fs::read_dir("/sys/class/net")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default().trim().to_owned();
        let own = addresses.iter().filter(|address| address.interface_name == name);
        let ips: Vec<String> = own.clone().filter_map(with_prefix).collect();
        let up = own.clone().any(|address| address.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP));
        found.insert(name, json!({ "address": text("address"), "mtu": text("mtu"), "up": up, "ips": ips }));
    }
    Ok(Value::Object(found))
}

fn with_prefix(address: &nix::ifaddrs::InterfaceAddress) -> Option<String> {
    let (own, mask) = (address.address.as_ref()?, address.netmask.as_ref()?);
    if let (Some(own), Some(mask)) = (own.as_sockaddr_in(), mask.as_sockaddr_in()) {
        return Some(format!("{}/{}", own.ip(), u32::from(mask.ip()).count_ones()));
    }
    let (own, mask) = (own.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
    Some(format!("{}/{}", own.ip(), u128::from(mask.ip()).count_ones()))
}

/// `/proc/net/route` and `/proc/net/ipv6_route`, without what the kernel makes by itself for its own addresses.
fn routes() -> Vec<String> {
    let text = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mut routes: Vec<String> = text.lines().skip(1).filter_map(route_4).collect();
    let text = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    routes.extend(text.lines().filter_map(route_6));
    routes
}

fn route_4(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [interface, destination, gateway, _, _, _, metric, mask, ..] = words.as_slice() else { return None };
    // As the kernel has them in memory.
    let ip = |text: &str| u32::from_str_radix(text, 16).ok().map(|number| Ipv4Addr::from(number.to_le_bytes()));
    let destination = network(ip(destination)?.into(), u32::from(ip(mask)?).count_ones());
    Some(format!("{destination} via {} dev {interface} metric {metric}", ip(gateway)?))
}

fn route_6(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [destination, prefix, _, _, gateway, metric, _, _, _, interface] = words.as_slice() else { return None };
    let ip = |text: &str| u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from);
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let destination = network(ip(destination)?.into(), number(prefix)?);
    Some(format!("{destination} via {} dev {interface} metric {}", ip(gateway)?, number(metric)?))
}

fn network(ip: IpAddr, prefix: u32) -> String {
    if prefix == 0 { "default".to_owned() } else { format!("{ip}/{prefix}") }
}

/// `/proc/net/arp`: address and hardware address.
fn neighbours() -> Vec<String> {
    let text = fs::read_to_string("/proc/net/arp").unwrap_or_default();
    let words = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter_map(|words| Some(format!("{} {}", words.first()?, words.get(3)?))).collect()
}
