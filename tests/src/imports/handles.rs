//! How a guest comes by handles: a probe of a method needs one that the host knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use wit_parser::abi::{AbiVariant, FlatTypes, WasmType};
use wit_parser::{Function, Handle, Resolve, SizeAlign, Type, TypeDefKind, TypeId};

/// Where the text of a probe lies, which is its only name of anything.
const TEXT_AT: u32 = 0x2000;
const TEXT: &str = "x";
/// Where what is returned by a pointer lies.
const RETURNED_AT: u32 = 0x3000;
/// Core parameters of a function that has its parameters in memory are fewer.
const MOST_FLAT: usize = 16;

/// For each resource that a guest can have, how it comes by a handle.
pub struct Handles<'a> {
    resolve: &'a Resolve,
    ways: HashMap<TypeId, Way<'a>>,
}

/// What gives a handle.
enum Way<'a> {
    /// The core parameter of the export that is called.
    Parameter(usize),
    Function {
        interface: &'a str,
        function: &'a Function,
        /// Where in what is returned by a pointer; none if it is the result.
        offset: Option<usize>,
    },
}

/// The core module of one probe, while it is written.
struct Module<'a> {
    handles: &'a Handles<'a>,
    /// Core imports, by module and name, with what follows the name.
    imports: BTreeMap<(String, String), String>,
    /// Handles that are lent, made once: before the loop.
    lent: Vec<String>,
}

/// A module, and the interfaces that it imports.
pub struct Probed {
    pub text: String,
    pub interfaces: BTreeSet<String>,
}

impl<'a> Handles<'a> {
    /// By the functions of `interfaces`, and by what `handler` is called with.
    pub fn new(
        resolve: &'a Resolve,
        interfaces: &'a BTreeMap<String, Vec<Function>>,
        handler: &Function,
    ) -> Handles<'a> {
        let mut sizes = SizeAlign::default();
        sizes.fill(resolve);
        let mut handles = Handles {
            resolve,
            ways: HashMap::new(),
        };
        for (at, param) in handler.params.iter().enumerate() {
            if let Some(resource) = handles.resource(&param.ty) {
                handles.ways.insert(resource, Way::Parameter(at));
            }
        }
        // Until no function gives a handle of another kind, once what it takes can be had.
        loop {
            let known = handles.ways.len();
            for (interface, functions) in interfaces {
                for function in functions {
                    let takes = function.params.iter().all(|param| handles.has(&param.ty));
                    for (resource, offset) in handles.given(&sizes, function) {
                        if takes && !handles.ways.contains_key(&resource) {
                            let way = Way::Function {
                                interface,
                                function,
                                offset,
                            };
                            handles.ways.insert(resource, way);
                        }
                    }
                }
            }
            if handles.ways.len() == known {
                return handles;
            }
        }
    }

    /// What a type is, whatever names it goes by.
    fn kind(&self, of: &Type) -> Option<(TypeId, &'a TypeDefKind)> {
        let mut of = *of;
        while let Type::Id(id) = of {
            match &self.resolve.types[id].kind {
                TypeDefKind::Type(other) => of = *other,
                kind => return Some((id, kind)),
            }
        }
        None
    }

    /// The resource of a handle.
    fn resource(&self, of: &Type) -> Option<TypeId> {
        match self.kind(of)? {
            (_, TypeDefKind::Handle(Handle::Own(id) | Handle::Borrow(id))) => {
                self.kind(&Type::Id(*id)).map(|(id, _)| id)
            }
            _ => None,
        }
    }

    /// Whether a parameter of such a type is a handle that a guest can have.
    pub fn can_give(&self, of: &Type) -> bool {
        self.resource(of)
            .is_some_and(|resource| self.ways.contains_key(&resource))
    }

    fn has(&self, of: &Type) -> bool {
        self.resource(of)
            .is_none_or(|resource| self.ways.contains_key(&resource))
    }

    /// The handles that a function gives, each with where it lies in what is returned by a pointer.
    fn given(&self, sizes: &SizeAlign, function: &Function) -> Vec<(TypeId, Option<usize>)> {
        let Some(result) = &function.result else {
            return Vec::new();
        };
        if let Some(resource) = self.resource(result) {
            return vec![(resource, None)];
        }
        let case = |cases: [Option<&Type>; 2], of: &Type| {
            let offset = sizes.payload_offset(wit_parser::Int::U8, cases).size_wasm32();
            self.resource(of).map(|resource| (resource, Some(offset)))
        };
        match self.kind(result) {
            Some((_, TypeDefKind::Option(some))) => case([None, Some(some)], some).into_iter().collect(),
            Some((_, TypeDefKind::Result(result))) => match &result.ok {
                Some(ok) => case([Some(ok), result.err.as_ref()], ok).into_iter().collect(),
                None => Vec::new(),
            },
            Some((_, TypeDefKind::Tuple(tuple))) => {
                let fields = sizes.field_offsets(&tuple.types);
                let given = |(offset, of): (wit_parser::ArchitectureSize, &Type)| {
                    self.resource(of)
                        .map(|resource| (resource, Some(offset.size_wasm32())))
                };
                fields.into_iter().filter_map(given).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A core module that calls a function without end, with handles that the host knows and one `number` for all else.
    pub fn endless(&self, interface: &str, function: &Function, number: u32, exports: &str) -> Probed {
        let mut module = Module {
            handles: self,
            imports: BTreeMap::new(),
            lent: Vec::new(),
        };
        let call = module.call(
            interface,
            function,
            &mut |module, of| {
                let lends = matches!(
                    module.handles.kind(of),
                    Some((_, TypeDefKind::Handle(Handle::Borrow(_))))
                );
                let handle = module.handle(of)?;
                Some(match lends {
                    true => {
                        module.lent.push(handle);
                        format!("(local.get $lent-{})", module.lent.len() - 1)
                    }
                    false => handle,
                })
            },
            number,
            number,
        );
        let signature = self.resolve.wasm_signature(AbiVariant::GuestImport, function);
        let drops = "(drop)".repeat(signature.results.len());
        let mut body = String::new();
        for at in 0..module.lent.len() {
            let _ = write!(body, "(local $lent-{at} i32) ");
        }
        for (at, handle) in module.lent.iter().enumerate() {
            let _ = write!(body, "(local.set $lent-{at} {handle}) ");
        }
        let _ = write!(body, "(loop $again {call} {drops} (br $again))");
        let mut imports = String::new();
        for ((from, name), function) in &module.imports {
            let _ = writeln!(imports, r#"(import "{from}" "{name}" {function})"#);
        }
        let text = format!(
            r#"(module
                {imports}
                (memory (export "memory") 128)
                (data (i32.const {TEXT_AT}) "{TEXT}")
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x100000))
                {})"#,
            exports.replace("$loop", &body),
        );
        let interfaces = module.imports.into_keys().map(|(from, _)| from).collect();
        Probed { text, interfaces }
    }
}

impl Module<'_> {
    /// A call of a function: `handle` makes what is a handle, `number` is all else, `pointer` where the result goes.
    fn call(
        &mut self,
        interface: &str,
        function: &Function,
        handle: &mut dyn FnMut(&mut Self, &Type) -> Option<String>,
        number: u32,
        pointer: u32,
    ) -> String {
        let resolve = self.handles.resolve;
        let signature = resolve.wasm_signature(AbiVariant::GuestImport, function);
        let name = self.import(interface, &function.name, &signature.params, &signature.results);
        let mut arguments = Vec::new();
        match signature.indirect_params {
            true => arguments.push(constant(WasmType::Pointer, number)),
            false => {
                for param in &function.params {
                    if let Some(given) = handle(self, &param.ty) {
                        arguments.push(given);
                    } else if let Some(end) = self.end(interface, function, &param.ty) {
                        arguments.push(end);
                    } else {
                        self.numbers(&param.ty, number, &mut arguments);
                    }
                }
            }
        }
        if signature.retptr {
            arguments.push(constant(WasmType::Pointer, pointer));
        }
        format!("(call {name} {})", arguments.join(" "))
    }

    /// What makes a handle of such a type, if it is one that can be had.
    fn handle(&mut self, of: &Type) -> Option<String> {
        let handles = self.handles;
        match handles.ways.get(&handles.resource(of)?)? {
            Way::Parameter(at) => Some(format!("(local.get {at})")),
            Way::Function {
                interface,
                function,
                offset,
            } => {
                let call = self.call(interface, function, &mut Self::handle, 0, RETURNED_AT);
                Some(match offset {
                    None => call,
                    Some(offset) => {
                        format!(
                            "(block (result i32) {call} (i32.load offset={offset} (i32.const {RETURNED_AT})))"
                        )
                    }
                })
            }
        }
    }

    /// The end of a stream or a future that a function takes, if it takes one.
    fn end(&mut self, interface: &str, function: &Function, of: &Type) -> Option<String> {
        let (id, kind) = self.handles.kind(of)?;
        let kind = match kind {
            TypeDefKind::Future(_) => "future",
            TypeDefKind::Stream(_) => "stream",
            _ => return None,
        };
        let all = function.find_futures_and_streams(self.handles.resolve);
        let at = all.iter().position(|found| *found == id)?;
        let intrinsic = format!("[{kind}-new-{at}]{}", function.name);
        let name = self.import(interface, &intrinsic, &[], &[WasmType::I64]);
        Some(format!("(i32.wrap_i64 (call {name}))"))
    }

    fn numbers(&self, of: &Type, number: u32, arguments: &mut Vec<String>) {
        // Of what gives a handle, text is a name.
        if matches!(of, Type::String) && number == 0 {
            arguments.push(constant(WasmType::Pointer, TEXT_AT));
            arguments.push(constant(WasmType::Length, TEXT.len() as u32));
            return;
        }
        let mut flat = [WasmType::I32; MOST_FLAT];
        let mut flat = FlatTypes::new(&mut flat);
        assert!(
            self.handles.resolve.push_flat(of, &mut flat),
            "it has its parameters in memory"
        );
        arguments.extend(flat.to_vec().into_iter().map(|of| constant(of, number)));
    }

    /// The name in the module of a function that it imports.
    fn import(&mut self, from: &str, name: &str, params: &[WasmType], results: &[WasmType]) -> String {
        let names = |types: &[WasmType]| types.iter().map(core_name).collect::<Vec<_>>().join(" ");
        let own = format!("$\"{from} {name}\"");
        let function = format!(
            "(func {own} (param {}) (result {}))",
            names(params),
            names(results)
        );
        self.imports.insert((from.to_owned(), name.to_owned()), function);
        own
    }
}

fn constant(of: WasmType, number: u32) -> String {
    format!("({}.const {number})", core_name(&of))
}

fn core_name(of: &WasmType) -> &'static str {
    match of {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
    }
}
