use teamster::Context;

struct Plain;

#[teamster::context]
async fn starts(ctx: Context<Plain>) {
    drop(ctx);
}

#[teamster::context]
async fn receives(ctx: Context<(), Plain>) {
    drop(ctx);
}

#[teamster::context]
async fn sends(ctx: Context<(), (), Vec<Plain>>) {
    drop(ctx);
}

#[teamster::context]
async fn takes(ctx: Context, plain: Plain) {
    drop((ctx, plain));
}

fn main() {}
