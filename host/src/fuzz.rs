//! What bytes from outside are read by here, each as a function of any bytes that panics where something does not hold.

use nearfield_protocol::limits;

use crate::inspect;
use crate::outgoing;

/// A component, as an author sends it.
pub fn component(bytes: &[u8]) {
    let Ok(inspection) = inspect(bytes) else { return };
    // Each has a byte at least, and code lies within the component.
    assert!(inspection.imports.len() + inspection.exports.len() <= bytes.len());
    assert!(inspection.code_bytes <= bytes.len() as u64 && bytes.len() as u64 <= limits::COMPONENT_BYTES);
    let _ = (inspection.call_lane(), inspection.job_lane());
}

/// The URI of a guest's request: what is looked up in the manifest is what is connected to, in one spelling.
pub fn outgoing_uri(bytes: &[u8]) {
    let Ok(uri) = http::Uri::try_from(bytes) else {
        return;
    };
    let Some(target) = outgoing::target(&uri) else {
        return;
    };
    assert_eq!(target.host, target.host.to_ascii_lowercase());
    assert!(!target.host.starts_with('[') && !target.host.ends_with(']'));
    if let Ok(listed) = target
        .to_string()
        .parse::<nearfield_protocol::manifest::HostPort>()
    {
        assert_eq!(listed, target);
    }
}

#[cfg(test)]
nearfield_mutate::targets!(component, outgoing_uri);
