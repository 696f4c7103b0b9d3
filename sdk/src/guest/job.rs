//! `nearfield:compute` as a component exports it. A function without a job exports none of it.

use bindings::exports::nearfield::compute::{finisher, mapper, reducer};

use crate::Shard;
use crate::job::Job;

#[allow(missing_docs)]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../wit/data", "../wit/compute"],
        world: "nearfield:compute/job",
        with: { "nearfield:data/shards@0.1.0": crate::guest::data::bindings::nearfield::data::shards },
        pub_export_macro: true,
        export_macro_name: "export_job",
    });
}

impl<J: Job> mapper::Guest for J {
    fn map(shard: mapper::Shard, args: Vec<u8>) -> Result<Vec<u8>, String> {
        J::map(Shard::new(super::data::Shard(shard)), &args)
    }
}

impl<J: Job> reducer::Guest for J {
    fn reduce(parts: Vec<Vec<u8>>, args: Vec<u8>) -> Result<Vec<u8>, String> {
        J::reduce(parts, &args)
    }
}

impl<J: Job> finisher::Guest for J {
    fn finish(total: Vec<u8>, args: Vec<u8>) -> Result<Vec<u8>, String> {
        J::finish(&total, &args)
    }
}
