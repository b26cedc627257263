use teamster::{Context, context};

#[context]
async fn its_own_side(ctx: &Context) {
    drop(ctx);
}

#[context]
async fn an_argument(ctx: Context, text: &str) -> usize {
    drop(ctx);
    text.len()
}

#[context]
async fn an_item(ctx: Context<(), &str, &'static [u8]>) {
    drop(ctx);
}

#[context]
async fn a_result(ctx: Context, text: String) -> &str {
    drop(ctx);
    &text
}

fn main() {}
