//! What bytes from outside are read by here, each as a function of any bytes that panics where something does not hold.

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "shader")]
use crate::shader;
use crate::wire::frame;
use crate::wire::{Message, Reply};

/// A message between a host and its worker, without its length, either way.
pub fn gpu_frame(bytes: &[u8]) {
    message::<Message>(bytes);
    message::<Reply>(bytes);
}

/// A guest's WGSL, its entry point and the value of its constants before it, a line each: what is taken keeps its bounds,
/// after the rewrite, too.
#[cfg(feature = "shader")]
pub fn wgsl(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut lines = text.splitn(3, '\n');
    let (Some(entry), Some(value), Some(source)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    let constants: Vec<_> = value
        .parse()
        .map(|value| ("n".to_owned(), value))
        .into_iter()
        .collect();
    let features = shader::Features {
        f16: true,
        subgroups: true,
    };
    let limits = shader::Limits::default();
    let Ok(kernel) = shader::check(source, entry, &constants, features, &limits) else {
        return;
    };
    assert!(source.len() <= limits.source_bytes && kernel.bindings.len() <= limits.bindings);
    assert!(kernel.bindings.is_sorted_by_key(|binding| binding.binding));
    let invocations: u32 = kernel.workgroup_size.iter().product();
    assert!((1..=limits.workgroup_invocations).contains(&invocations));
    assert!(kernel.module.entry_points.iter().any(|point| point.name == entry));
    // Ours is there, and it alone is outside of group 0.
    let groups = kernel.module.global_variables.iter();
    let outside = groups.filter(|(_, variable)| {
        variable
            .binding
            .as_ref()
            .is_some_and(|binding| binding.group != 0)
    });
    assert_eq!(outside.count(), 1);
}

/// What is read is written so that it is read as the same.
fn message<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = frame::decode::<T>(bytes) else {
        return;
    };
    let Some(written) = frame::encode(&message) else {
        return;
    };
    assert!(
        written.len() <= 4 + bytes.len(),
        "an honest writer never needs more"
    );
    assert!(
        frame::decode::<T>(&[&written[4..], &[0]].concat()).is_err(),
        "nothing stands behind it"
    );
    let again: T = frame::decode(&written[4..]).unwrap();
    assert_eq!(frame::encode(&again), Some(written));
}

#[cfg(all(test, feature = "shader"))]
nearfield_mutate::targets!(gpu_frame, wgsl);
