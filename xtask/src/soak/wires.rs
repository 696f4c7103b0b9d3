//! Nodes with a network each, joined by cables that can be pulled: network namespaces and bridges, which need root on
//! Linux.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use nearfield_testkit::Place;

use crate::workspace::output;

/// What all namespaces here are called, and so the left-overs of a run that was interrupted.
const PREFIX: &str = "nearfield-soak-";

/// Who hears whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
    /// Nobody. The cable looks whole, and nothing comes through.
    Nowhere,
}

/// So many networks of one node each, and the switch between them. Dropped, all goes.
pub struct Wires {
    places: Vec<Place>,
    switch: String,
}

impl Wires {
    /// Fails where this process may not make networks.
    pub fn lay(count: usize) -> Result<Wires> {
        let wires = Wires {
            places: (1..=count)
                .map(|index| Place {
                    address: format!("10.99.0.{index}"),
                    namespace: Some(format!("{PREFIX}{index}")),
                })
                .collect(),
            switch: format!("{PREFIX}switch"),
        };
        wires.clear();
        ip(&["netns", "add", &wires.switch])?;
        for side in ["left", "right"] {
            wires.at_switch(&["link", "add", side, "type", "bridge"])?;
            wires.at_switch(&["link", "set", side, "up"])?;
        }
        for (index, place) in wires.places.iter().enumerate() {
            let Some(namespace) = &place.namespace else {
                continue;
            };
            ip(&["netns", "add", namespace])?;
            let at = |arguments: &[&str]| ip(&[&["-n", namespace], arguments].concat());
            let port = port(index);
            at(&["link", "set", "lo", "up"])?;
            let ends = ["type", "veth", "peer", "name", &port, "netns", &wires.switch];
            at(&[&["link", "add", "wire"], &ends[..]].concat())?;
            at(&["address", "add", &format!("{}/24", place.address), "dev", "wire"])?;
            at(&["link", "set", "wire", "up"])?;
            wires.at_switch(&["link", "set", &port, "up"])?;
            wires.plug(index, Side::Left)?;
        }
        Ok(wires)
    }

    pub fn place(&self, index: usize) -> Place {
        self.places[index].clone()
    }

    /// Moves a node's cable.
    pub fn plug(&self, index: usize, side: Side) -> Result<()> {
        let port = port(index);
        match side {
            Side::Left => self.at_switch(&["link", "set", &port, "master", "left"]),
            Side::Right => self.at_switch(&["link", "set", &port, "master", "right"]),
            Side::Nowhere => self.at_switch(&["link", "set", &port, "nomaster"]),
        }
    }

    fn at_switch(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.switch], arguments].concat())
    }

    fn clear(&self) {
        let namespaces = self.places.iter().filter_map(|place| place.namespace.as_ref());
        for namespace in namespaces.chain([&self.switch]) {
            // Most often it is not there.
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .stderr(Stdio::null())
                .status();
        }
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.clear();
    }
}

fn port(index: usize) -> String {
    format!("port{index}")
}

fn ip(arguments: &[&str]) -> Result<()> {
    let said = output(Command::new("ip").args(arguments))?;
    ensure!(
        said.is_empty(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&said)
    );
    Ok(())
}
