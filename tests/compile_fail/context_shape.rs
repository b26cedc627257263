use teamster::{Context, context};

#[context]
async fn nothing() {}

#[context]
fn not_async(ctx: Context) {
    drop(ctx);
}

struct Counter;

impl Counter {
    #[context]
    async fn method(&self, ctx: Context) {
        drop(ctx);
    }
}

#[context]
async fn generic<T: Send>(ctx: Context<T>) {
    drop(ctx);
}

#[context(stream = true)]
async fn options(ctx: Context) {
    drop(ctx);
}

fn main() {
    Counter;
}
