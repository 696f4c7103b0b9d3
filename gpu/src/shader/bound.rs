//! Loops that end: each turn takes one from what an invocation has left, and without any the loop is left.
//!
//! A loop that waits for the other invocations of its workgroup has an account of its own. All of them go through such loops
//! together, as WGSL demands (§15.2), so all have as much left and leave together; had they one account for all loops, one
//! would leave early and the others wait for it for ever.

use std::collections::{HashMap, HashSet};

use naga::valid::ModuleInfo;
use naga::{
    AddressSpace, Arena, BinaryOperator, Block, Expression, Function, GlobalVariable, Handle, Literal,
    MemoryDecorations, Module, Range, ResourceBinding, Scalar, Span, Statement, StorageAccess, Type,
    TypeInner,
};

use super::EXHAUSTED_GROUP;

/// What the rewritten loops use.
struct Counter {
    /// A `u32` of each invocation: the turns it has left.
    left: Handle<GlobalVariable>,
    /// The same for loops that wait.
    left_waiting: Handle<GlobalVariable>,
    /// An `atomic<u32>` of all: not 0 once one had none left.
    exhausted: Handle<GlobalVariable>,
}

/// Counts the turns of all loops of a module.
pub(super) fn loops(module: &mut Module, turns: u32) {
    let mut waiting = HashSet::new();
    // What a function calls stands before it.
    for (handle, function) in module.functions.iter() {
        if waits(&function.body, &waiting) {
            waiting.insert(handle);
        }
    }
    let counter = declare(module, turns);
    for (_, function) in module.functions.iter_mut() {
        counter.count(function, &waiting);
    }
    for point in &mut module.entry_points {
        counter.count(&mut point.function, &waiting);
    }
}

fn declare(module: &mut Module, turns: u32) -> Counter {
    let scalar = |inner| Type { name: None, inner };
    let number = module
        .types
        .insert(scalar(TypeInner::Scalar(Scalar::U32)), Span::UNDEFINED);
    let atomic = module
        .types
        .insert(scalar(TypeInner::Atomic(Scalar::U32)), Span::UNDEFINED);
    let turns = Expression::Literal(Literal::U32(turns));
    let init = Some(module.global_expressions.append(turns, Span::UNDEFINED));
    let variable = |name: &str, space, binding, ty, init| GlobalVariable {
        name: Some(name.to_owned()),
        space,
        binding,
        ty,
        init,
        memory_decorations: MemoryDecorations::default(),
    };
    let left = variable("nearfield_turns_left", AddressSpace::Private, None, number, init);
    let name = "nearfield_waiting_turns_left";
    let left_waiting = variable(name, AddressSpace::Private, None, number, init);
    let binding = ResourceBinding {
        group: EXHAUSTED_GROUP,
        binding: 0,
    };
    let access = StorageAccess::LOAD | StorageAccess::STORE;
    let space = AddressSpace::Storage { access };
    let exhausted = variable("nearfield_exhausted", space, Some(binding), atomic, None);
    Counter {
        left: module.global_variables.append(left, Span::UNDEFINED),
        left_waiting: module.global_variables.append(left_waiting, Span::UNDEFINED),
        exhausted: module.global_variables.append(exhausted, Span::UNDEFINED),
    }
}

impl Counter {
    fn count(&self, function: &mut Function, waiting: &HashSet<Handle<Function>>) {
        let Function {
            expressions, body, ..
        } = function;
        // Leaving a loop never leaves a function without its result: naga takes no function that ends with a loop.
        self.count_in(body, expressions, waiting);
    }

    fn count_in(
        &self,
        block: &mut Block,
        expressions: &mut Arena<Expression>,
        waiting: &HashSet<Handle<Function>>,
    ) {
        for (statement, _) in block.span_iter_mut() {
            match statement {
                Statement::Block(inner) => self.count_in(inner, expressions, waiting),
                Statement::If { accept, reject, .. } => {
                    self.count_in(accept, expressions, waiting);
                    self.count_in(reject, expressions, waiting);
                }
                Statement::Switch { cases, .. } => {
                    for case in cases {
                        self.count_in(&mut case.body, expressions, waiting);
                    }
                }
                Statement::Loop { body, continuing, .. } => {
                    let waits = waits(body, waiting) || waits(continuing, waiting);
                    self.count_in(body, expressions, waiting);
                    self.count_in(continuing, expressions, waiting);
                    let left = if waits { self.left_waiting } else { self.left };
                    body.splice(0..0, self.turn(left, expressions));
                }
                _ => {}
            }
        }
    }

    /// `if left == 0 { exhausted = 1; break; } left = left - 1;`
    fn turn(&self, left: Handle<GlobalVariable>, expressions: &mut Arena<Expression>) -> Block {
        let mut add = |expression| expressions.append(expression, Span::UNDEFINED);
        let left = add(Expression::GlobalVariable(left));
        let exhausted = add(Expression::GlobalVariable(self.exhausted));
        let (none, one) = (
            add(Expression::Literal(Literal::U32(0))),
            add(Expression::Literal(Literal::U32(1))),
        );
        let now = add(Expression::Load { pointer: left });
        let binary = |op, left, right| Expression::Binary { op, left, right };
        let is_none = add(binary(BinaryOperator::Equal, now, none));
        let less = add(binary(BinaryOperator::Subtract, now, one));
        let leave = [
            Statement::Store {
                pointer: exhausted,
                value: one,
            },
            Statement::Break,
        ];
        let statements = vec![
            Statement::Emit(Range::new_from_bounds(now, less)),
            Statement::If {
                condition: is_none,
                accept: Block::from_vec(leave.into()),
                reject: Block::new(),
            },
            Statement::Store {
                pointer: left,
                value: less,
            },
        ];
        Block::from_vec(statements)
    }
}

/// How many blocks are within each other, at most. Whoever reads a module after this does it by recursion.
pub(super) fn deepest(module: &Module) -> usize {
    let functions = module.functions.iter().map(|(_, function)| function);
    let points = module.entry_points.iter().map(|point| &point.function);
    functions
        .chain(points)
        .map(|function| depth(&function.body))
        .max()
        .unwrap_or(0)
}

fn depth(block: &Block) -> usize {
    let inner = block.iter().map(|statement| match statement {
        Statement::Block(inner) => depth(inner),
        Statement::If { accept, reject, .. } => depth(accept).max(depth(reject)),
        Statement::Switch { cases, .. } => cases.iter().map(|case| depth(&case.body)).max().unwrap_or(0),
        Statement::Loop { body, continuing, .. } => depth(body).max(depth(continuing)),
        _ => 0,
    });
    1 + inner.max().unwrap_or(0)
}

/// The most bytes of variables that a function has, or that all invocations have for themselves.
pub(super) fn variable_bytes(module: &Module) -> u64 {
    let size = |ty: Handle<Type>| {
        let size = module.types[ty].inner.try_size(module.to_ctx());
        size.map_or(0, u64::from)
    };
    let functions = module.functions.iter().map(|(_, function)| function);
    let points = module.entry_points.iter().map(|point| &point.function);
    let of_functions = functions.chain(points).map(|function| {
        let variables = function.local_variables.iter();
        variables
            .map(|(_, variable)| size(variable.ty))
            .fold(0, u64::saturating_add)
    });
    let private = module
        .global_variables
        .iter()
        .filter(|(_, variable)| variable.space == AddressSpace::Private);
    let private = private
        .map(|(_, variable)| size(variable.ty))
        .fold(0, u64::saturating_add);
    of_functions.fold(private, u64::max)
}

/// Bytes that a workgroup of an entry point shares.
pub(super) fn workgroup_bytes(module: &Module, info: &ModuleInfo, entry: usize) -> u64 {
    let used = info.get_entry_point(entry);
    let shared = module
        .global_variables
        .iter()
        .filter(|(handle, variable)| variable.space == AddressSpace::WorkGroup && !used[*handle].is_empty());
    let sizes = shared.map(|(_, variable)| {
        let size = module.types[variable.ty].inner.try_size(module.to_ctx());
        size.map_or(u64::MAX, u64::from)
    });
    sizes.fold(0, u64::saturating_add)
}

/// What a module comes to if each call is replaced by what it calls, in expressions and statements: calls of calls grow
/// beyond all bounds without any loop, and drivers do replace them.
pub(super) fn expanded(module: &Module) -> u64 {
    let mut of = HashMap::new();
    let size = |function: &Function, of: &HashMap<Handle<Function>, u64>| {
        (function.expressions.len() as u64).saturating_add(statements(&function.body, of))
    };
    // What a function calls stands before it.
    for (handle, function) in module.functions.iter() {
        of.insert(handle, size(function, &of));
    }
    let points = module.entry_points.iter().map(|point| size(&point.function, &of));
    points.fold(0, u64::saturating_add)
}

fn statements(block: &Block, of: &HashMap<Handle<Function>, u64>) -> u64 {
    let sizes = block.iter().map(|statement| match statement {
        Statement::Call { function, .. } => of.get(function).copied().unwrap_or_default(),
        Statement::Block(inner) => statements(inner, of),
        Statement::If { accept, reject, .. } => statements(accept, of).saturating_add(statements(reject, of)),
        Statement::Switch { cases, .. } => {
            let cases = cases.iter().map(|case| statements(&case.body, of));
            cases.fold(0, u64::saturating_add)
        }
        Statement::Loop { body, continuing, .. } => {
            statements(body, of).saturating_add(statements(continuing, of))
        }
        _ => 0,
    });
    sizes.fold(block.len() as u64, u64::saturating_add)
}

/// Whether a block waits for other invocations, itself or by what it calls.
fn waits(block: &Block, waiting: &HashSet<Handle<Function>>) -> bool {
    block.iter().any(|statement| match statement {
        Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } => true,
        Statement::Call { function, .. } => waiting.contains(function),
        Statement::Block(inner) => waits(inner, waiting),
        Statement::If { accept, reject, .. } => waits(accept, waiting) || waits(reject, waiting),
        Statement::Switch { cases, .. } => cases.iter().any(|case| waits(&case.body, waiting)),
        Statement::Loop { body, continuing, .. } => waits(body, waiting) || waits(continuing, waiting),
        _ => false,
    })
}
