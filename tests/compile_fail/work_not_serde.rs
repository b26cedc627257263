use std::rc::Rc;

struct Plain;

#[teamster::work]
fn make(from: Plain) -> Rc<u32> {
    drop(from);
    Rc::new(1)
}

fn main() {}
