//! How a source is written down: constructors for each kind of location, and one setter per option.

use std::path::Path;
use std::sync::Arc;

use duckrun_core::StorageOptions;
use duckrun_core::object_store::ObjectStore;

use crate::formats::JsonLayout;
use crate::place::StoreChoice;
use crate::{
    ArrowIpc, Compression, Csv, CsvFormat, FileSource, FilenameColumn, Files, HivePartitions, Json, Location, Registry,
    ScanOptions,
};

impl<F: Default> FileSource<F> {
    /// A file or folder if it exists, otherwise a glob.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self::new(Location::At(path.as_ref().to_owned()), F::default())
    }

    /// Exactly one file; `*`, `?` and `[` in its name are letters.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::new(Location::File(path.as_ref().to_owned()), F::default())
    }

    /// Every file below a folder that is not hidden (`.` or `_` first) and ends as the format's files do.
    pub fn folder(path: impl AsRef<Path>) -> Self {
        Self::new(Location::Folder(path.as_ref().to_owned()), F::default())
    }

    /// Every file that a glob matches: `*` and `?` within a name, `[0-9]`, `**` for any folders. Hidden names only where
    /// the pattern spells their first character.
    pub fn glob(pattern: impl AsRef<Path>) -> Self {
        Self::new(Location::Glob(pattern.as_ref().to_owned()), F::default())
    }

    /// Exactly these files. They are read in the order of their names.
    pub fn list<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self::new(Location::List(paths.into_iter().map(|p| p.as_ref().to_owned()).collect()), F::default())
    }
}

impl<F> FileSource<F> {
    /// A source from its parts: for options that were deserialised, or a format of one's own.
    ///
    /// ```
    /// use duckrun_sources::{CsvFormat, FileSource, Location};
    /// let daily = FileSource::new(Location::Glob("in/*.txt".into()), CsvFormat { skip: Some(2), ..CsvFormat::default() });
    /// # let _ = daily;
    /// ```
    pub fn new(location: Location, format: F) -> Self {
        Self { location, root: None, options: ScanOptions::default(), store: StoreChoice::default(), format }
    }

    /// The options that are the same for every format, all at once.
    #[must_use]
    pub fn options(mut self, options: ScanOptions) -> Self {
        self.options = options;
        self
    }

    /// Options of the store that the location's URL names, over those of the session. `Debug` does not show their values.
    #[must_use]
    pub fn storage_options(mut self, options: StorageOptions) -> Self {
        self.store.options = options;
        self
    }

    /// Reads from this store: the location's paths are keys in it, and so are those of [`root`](Self::root) and
    /// [`filename_relative_to`](Self::filename_relative_to).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use duckrun_core::object_store::memory::InMemory;
    /// use duckrun_sources::Csv;
    /// let landing = Csv::glob("landing/*.csv").store(Arc::new(InMemory::new()));
    /// # let _ = landing;
    /// ```
    #[must_use]
    pub fn store(mut self, store: Arc<dyn ObjectStore>) -> Self {
        self.store.store = Some(store);
        self
    }

    /// Takes relative locations from this folder (or URL of one) and refuses every file outside of it, `..` and links included.
    #[must_use]
    pub fn root(mut self, root: impl AsRef<Path>) -> Self {
        self.root = Some(root.as_ref().to_owned());
        self
    }

    /// Adds the column `filename`, also for a single file.
    #[must_use]
    pub fn with_filename(self) -> Self {
        self.filename_as("filename")
    }

    /// Adds the column with each row's file under another name, where the files have a `filename` of their own.
    #[must_use]
    pub fn filename_as(mut self, name: impl Into<String>) -> Self {
        self.options.filename = FilenameColumn::Named(name.into());
        self
    }

    /// Leaves the column `filename` out.
    #[must_use]
    pub fn without_filename(mut self) -> Self {
        self.options.filename = FilenameColumn::Off;
        self
    }

    /// Makes the file's name relative to a folder that all files lie in, so that it is the same on every machine.
    #[must_use]
    pub fn filename_relative_to(mut self, folder: impl AsRef<Path>) -> Self {
        self.options.filename_relative_to = Some(folder.as_ref().to_owned());
        self
    }

    /// Matches the columns of different files by name; the result has all of them, missing ones are NULL.
    #[must_use]
    pub fn union_by_name(mut self) -> Self {
        self.options.union_by_name = true;
        self
    }

    /// Whether folders named `key=value` become columns; by default where every file has the same keys.
    #[must_use]
    pub fn hive(mut self, hive: HivePartitions) -> Self {
        self.options.hive = hive;
        self
    }

    /// The SQL type of one hive partition column; it is guessed from the values otherwise.
    #[must_use]
    pub fn hive_type(mut self, column: impl Into<String>, sql_type: impl Into<String>) -> Self {
        self.options.hive_types.push((column.into(), sql_type.into()));
        self
    }
}

impl Files {
    /// Takes every file as of the format of this name instead of inferring it.
    #[must_use]
    pub fn format(mut self, name: impl Into<String>) -> Self {
        self.format = self.format.forced(name);
        self
    }

    /// Infers among these formats: with some of one's own, or with other options.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use duckrun_sources::{CsvFormat, Files, Registry};
    /// let semicolons = CsvFormat { delimiter: Some(";".into()), ..CsvFormat::default() };
    /// let source = Files::at("drop").registry(Registry::default().with(Arc::new(semicolons)));
    /// # let _ = source;
    /// ```
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.format = match self.format.forced_name() {
            Some(name) => registry.forced(name),
            None => registry,
        };
        self
    }
}

macro_rules! setters {
    ($source:ident: $($(#[$doc:meta])* $name:ident($($arg:ident: $t:ty),*) => |$f:ident| $set:expr;)*) => {
        impl $source {$(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $($arg: $t),*) -> Self {
                let $f = &mut self.format;
                $set;
                self
            }
        )*}
    };
}

setters! { Csv:
    /// Tab-separated, in files that end in `.tsv`.
    tsv() => |f| *f = CsvFormat { delimiter: Some("\t".into()), name: "tsv".into(), ..f.clone() };
    /// Exactly what RFC 4180 says: commas, a header line, values in double quotes where they need it, quotes doubled.
    ///
    /// With the whole dialect stated, by this or one by one, files that have the same header are sniffed once and not again
    /// for every plan and every file, which makes many small files several times faster to read.
    rfc4180() => |f| *f = CsvFormat {
        delimiter: Some(",".into()), header: Some(true), quote: Some("\"".into()), escape: Some("\"".into()), ..f.clone()
    };
    /// What separates values; up to four bytes.
    delimiter(text: impl Into<String>) => |f| f.delimiter = Some(text.into());
    /// Whether the first line holds the names.
    header(yes: bool) => |f| f.header = Some(yes);
    /// What stands around values that hold the delimiter; empty for none.
    quote(text: impl Into<String>) => |f| f.quote = Some(text.into());
    /// What stands before a quote within quotes.
    escape(text: impl Into<String>) => |f| f.escape = Some(text.into());
    /// Texts that mean NULL.
    null_strings(texts: impl IntoIterator<Item = impl Into<String>>) =>
        |f| f.null_strings = texts.into_iter().map(Into::into).collect();
    /// One column of the whole schema, in order: name and SQL type. Once one is stated, all must be.
    column(name: impl Into<String>, sql_type: impl Into<String>) => |f| f.columns.push((name.into(), sql_type.into()));
    /// The SQL type of one column, by name; the others are sniffed.
    column_type(name: impl Into<String>, sql_type: impl Into<String>) => |f| f.types.push((name.into(), sql_type.into()));
    /// Reads every column as text.
    all_text() => |f| f.all_text = true;
    /// Skips lines at the beginning of each file.
    skip(lines: u64) => |f| f.skip = Some(lines);
    /// How the files are compressed, where their suffix does not say so.
    compression(compression: Compression) => |f| f.compression = Some(compression);
}

setters! { Json:
    /// One object per line, whatever the files are called.
    lines() => |f| f.layout = JsonLayout::Lines;
    /// One array of objects per file, whatever the files are called.
    array() => |f| f.layout = JsonLayout::Array;
    /// One field of the whole schema: name and SQL type. Once one is stated, the others are not read.
    column(name: impl Into<String>, sql_type: impl Into<String>) => |f| f.columns.push((name.into(), sql_type.into()));
    /// How the files are compressed, where their suffix does not say so.
    compression(compression: Compression) => |f| f.compression = Some(compression);
}

setters! { ArrowIpc:
    /// Decodes only these columns: the engine cannot leave any out by itself.
    columns(names: impl IntoIterator<Item = impl Into<String>>) =>
        |f| f.columns = names.into_iter().map(Into::into).collect();
}
