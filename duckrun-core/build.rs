//! Compiles the file system under DuckDB's readers (`src/duckdb/remote.cpp`) against the headers of the DuckDB that is compiled
//! in. Without the feature `bundled` there is nothing to do: the headers of a foreign libduckdb need not match its C++ ABI.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/duckdb/remote.cpp");
    #[cfg(feature = "bundled")]
    remote_files();
}

#[cfg(feature = "bundled")]
fn remote_files() {
    // `cargo:include` of libduckdb-sys, a direct dependency for the sake of this.
    println!("cargo::rerun-if-env-changed=DEP_DUCKDB_INCLUDE");
    let Some(include) = std::env::var_os("DEP_DUCKDB_INCLUDE") else {
        println!("cargo::error=libduckdb-sys did not say where its headers are (DEP_DUCKDB_INCLUDE)");
        return;
    };
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("src/duckdb/remote.cpp").warnings(false);
    // `-isystem`, in effect: DuckDB's headers are not ours to warn about.
    build.include(include);
    // The classes of DuckDB's headers have the layout that the library was compiled with: the same rule as libduckdb-sys's.
    match std::env::var("DEBUG").as_deref() {
        Ok("false" | "0") | Err(_) => build.define("NDEBUG", None),
        Ok(_) => build.define("DEBUG", None),
    };
    let target = std::env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
    if target == "msvc" {
        build.flag("/EHsc").flag("/utf-8").flag("/bigobj");
    }
    if std::env::var_os("CARGO_CFG_WINDOWS").is_some() {
        build.define("DUCKDB_BUILD_LIBRARY", None);
    }
    build.compile("duckrun_remote_files");
}
