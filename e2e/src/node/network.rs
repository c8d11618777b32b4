//! A cable between the machine and the node: a veth pair, which ends with either of its ends.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{HOST_IP, NODE_IP, POD_CIDR, SERVICE_CIDR};

/// Outside: lays the cable to the network namespace of the init process. The machine reaches the node and its pods.
pub(super) fn connect(init: u32) -> Result<()> {
    run(&format!("ip link add {HOST_END} type veth peer name {NODE_END} netns {init}"))?;
    run(&format!("ip address add {HOST_IP}/30 dev {HOST_END}"))?;
    run(&format!("ip link set {HOST_END} up"))?;
    run(&format!("ip route replace {POD_CIDR} via {NODE_IP}"))
}

/// Outside: removes the interface of an ended node, if the kernel has not done so yet.
pub(super) fn disconnect() -> Result<()> {
    if Path::new("/sys/class/net").join(HOST_END).exists() {
        // The kernel may remove it at the same time.
        let _ = run(&format!("ip link delete {HOST_END}"));
    }
    ensure!(!Path::new("/sys/class/net").join(HOST_END).exists(), "cannot remove the interface {HOST_END}");
    Ok(())
}

/// Inside: true if the interface exists.
pub(super) fn is_connected() -> bool {
    run(&format!("ip link show {NODE_END}")).is_ok()
}

/// Inside: gives the node its address and its routes.
pub(super) fn configure() -> Result<()> {
    run("ip link set lo up")?;
    run(&format!("ip address add {NODE_IP}/30 dev {NODE_END}"))?;
    run(&format!("ip link set {NODE_END} up"))?;
    // kube-proxy changes the destination of packets to a Service, but first there must be a route at all.
    run("ip link add services type bridge")?;
    run("ip link set services up")?;
    run(&format!("ip route add {SERVICE_CIDR} dev services"))?;
    run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1")?;
    // Only where the kernel filters on bridges: then traffic between pods through a Service must be seen too.
    let _ = run("sysctl -qw net.bridge.bridge-nf-call-iptables=1");
    Ok(())
}

fn run(command: &str) -> Result<()> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output();
    let output = output.with_context(|| format!("cannot run `{command}`"))?;
    ensure!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

const HOST_END: &str = "gaia-host";
const NODE_END: &str = "eth0";
