//! Which adapters there are, and opening one.

use crate::wire::{Choice, Description};

/// One adapter of this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AdapterInfo {
    pub name: String,
    pub backend: String,
    pub driver: String,
    pub software: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "no GPU driver is found: on Debian, `apt-get install libvulkan1 mesa-vulkan-drivers` brings the software adapter"
    )]
    None,
    #[error("no adapter here is {wanted}; there is {there}")]
    NoSuch { wanted: String, there: String },
    #[error("{name} cannot be opened: {reason}")]
    Refused { name: String, reason: String },
}

/// Turns of the loops of one invocation on hardware: seconds, if each waits for memory.
const TURNS: u32 = 1 << 24;
/// On Mesa's software adapter, which leaves each loop after 65,535 turns without a word (measured with 22.3.6).
const SOFTWARE_TURNS: u32 = 60_000;
/// Invocations of a workgroup that guests may ask for, where the adapter has as many.
const INVOCATIONS: u32 = 1_024;
/// Bytes of workgroup memory, where the adapter has as many.
const WORKGROUP_BYTES: u32 = 64 << 10;

/// All adapters, those that compute on hardware first, and of them the ones with memory of their own.
pub fn adapters() -> Vec<AdapterInfo> {
    list().iter().map(|adapter| info(&adapter.get_info())).collect()
}

pub(super) fn open(choice: &Choice) -> Result<(wgpu::Device, wgpu::Queue, Description), OpenError> {
    let adapters = list();
    let infos: Vec<AdapterInfo> = adapters.iter().map(|adapter| info(&adapter.get_info())).collect();
    let at = choose(choice, &infos)?;
    let adapter = &adapters[at];
    let offered = adapter.features();
    let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
    let features = offered & wanted;
    let has = adapter.limits();
    let limits = wgpu::Limits {
        max_buffer_size: has.max_buffer_size,
        max_storage_buffer_binding_size: has.max_storage_buffer_binding_size,
        max_compute_workgroup_storage_size: has.max_compute_workgroup_storage_size.min(WORKGROUP_BYTES),
        max_compute_invocations_per_workgroup: has.max_compute_invocations_per_workgroup.min(INVOCATIONS),
        max_compute_workgroup_size_x: has.max_compute_workgroup_size_x.min(INVOCATIONS),
        max_compute_workgroup_size_y: has.max_compute_workgroup_size_y.min(INVOCATIONS),
        max_compute_workgroup_size_z: has.max_compute_workgroup_size_z.min(64),
        min_storage_buffer_offset_alignment: has.min_storage_buffer_offset_alignment,
        min_uniform_buffer_offset_alignment: has.min_uniform_buffer_offset_alignment,
        ..wgpu::Limits::default()
    };
    let opened = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: features,
        required_limits: limits.clone(),
        ..wgpu::DeviceDescriptor::default()
    }));
    let AdapterInfo {
        name,
        backend,
        driver,
        software,
    } = infos[at].clone();
    let (device, queue) = opened.map_err(|error| OpenError::Refused {
        name: name.clone(),
        reason: error.to_string(),
    })?;
    let description = Description {
        name,
        backend,
        driver,
        software,
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        max_buffer_bytes: limits.max_buffer_size,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        binding_alignment: limits
            .min_storage_buffer_offset_alignment
            .max(limits.min_uniform_buffer_offset_alignment),
        max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
        max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_loop_turns: if software { SOFTWARE_TURNS } else { TURNS },
    };
    Ok((device, queue, description))
}

fn list() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // Nothing of layers that the environment names: they would be other people's code in here.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

fn info(of: &wgpu::AdapterInfo) -> AdapterInfo {
    AdapterInfo {
        name: of.name.clone(),
        backend: of.backend.to_string(),
        driver: format!("{} {}", of.driver, of.driver_info).trim().to_owned(),
        software: of.device_type == wgpu::DeviceType::Cpu,
    }
}

/// The place of the adapter that is meant.
fn choose(choice: &Choice, adapters: &[AdapterInfo]) -> Result<usize, OpenError> {
    if adapters.is_empty() {
        return Err(OpenError::None);
    }
    let (found, wanted) = match choice {
        Choice::Best => (Some(0), String::new()),
        Choice::Hardware => (
            adapters.iter().position(|adapter| !adapter.software),
            "hardware".to_owned(),
        ),
        Choice::Software => (
            adapters.iter().position(|adapter| adapter.software),
            "a software adapter".to_owned(),
        ),
        Choice::Named(name) => {
            let place = name.parse().ok().filter(|place| *place < adapters.len());
            let part = name.to_lowercase();
            let named = || {
                adapters
                    .iter()
                    .position(|adapter| adapter.name.to_lowercase().contains(&part))
            };
            (place.or_else(named), format!("called `{name}`"))
        }
    };
    found.ok_or_else(|| {
        let names: Vec<_> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
        OpenError::NoSuch {
            wanted,
            there: names.join(", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapter_that_is_meant() {
        let adapter = |name: &str, software| AdapterInfo {
            name: name.to_owned(),
            backend: "vulkan".to_owned(),
            driver: String::new(),
            software,
        };
        let both = [adapter("Big GPU", false), adapter("llvmpipe", true)];
        let software = &both[1..];
        let named = |name: &str| Choice::Named(name.to_owned());
        for (choice, adapters, found) in [
            (Choice::Best, &both[..], Some(0)),
            (Choice::Software, &both, Some(1)),
            (Choice::Hardware, &both, Some(0)),
            (Choice::Hardware, software, None),
            (Choice::Best, software, Some(0)),
            (named("LLVM"), &both, Some(1)),
            (named("1"), &both, Some(1)),
            (named("2"), &both, None),
            (named("other"), &both, None),
            (Choice::Best, &[], None),
        ] {
            assert_eq!(choose(&choice, adapters).ok(), found, "{choice:?}");
        }
        let refused = choose(&Choice::Hardware, software).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no adapter here is hardware; there is llvmpipe"
        );
    }
}
