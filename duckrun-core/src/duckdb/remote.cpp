// A file system for DuckDB's own readers whose bytes come from Rust (`bridge.rs`, which has the other end of every function
// here). Neither of DuckDB's C APIs can register a file system, so this derives from the C++ class; it is compiled against
// the headers of the very DuckDB that it is linked with.
//
// Two rules: no C++ exception crosses into Rust (Rust is only ever called, and everything that Rust calls is caught), and a
// failure in Rust comes back as a code with a text, which is thrown here.

#include "duckdb.hpp"
#include "duckdb/common/exception.hpp"
#include "duckdb/common/file_system.hpp"
#include "duckdb/main/capi/capi_internal.hpp"

#include <cstdint>
#include <cstring>

extern "C" {

// What went wrong in Rust. `code`: 0 nothing, 1 a failure, 2 the statement was interrupted.
struct DuckrunFailure {
	int32_t code;
	uint32_t length;
	char text[1016];
};

// The Rust side. `files` is what was registered, `file` what `open` returned. Every function may be called from any thread.
struct DuckrunCalls {
	bool (*handles)(const void *files, const char *path, size_t length);
	void *(*open)(const void *files, const char *path, size_t length, uint64_t *size, int64_t *modified,
	              DuckrunFailure *failure);
	void (*read_at)(const void *file, uint8_t *out, uint64_t count, uint64_t offset, DuckrunFailure *failure);
	uint64_t (*read_next)(const void *file, uint8_t *out, uint64_t count, uint64_t offset, DuckrunFailure *failure);
	void (*close)(void *file);
	void *(*list)(const void *files, const char *path, size_t length, DuckrunFailure *failure);
	const char *(*listed)(const void *list, size_t index, size_t *length);
	void (*end_list)(void *list);
	void (*release)(void *files);
};

bool duckrun_register_files(void *database, const DuckrunCalls *calls, void *files, DuckrunFailure *failure);
}

namespace {

using namespace duckdb;

constexpr const char *NAME = "duckrun";

void Check(const DuckrunFailure &failure) {
	if (failure.code == 0) {
		return;
	}
	if (failure.code == 2) {
		throw InterruptException();
	}
	throw IOException(string(failure.text, failure.length));
}

class Handle final : public FileHandle {
public:
	Handle(FileSystem &system, const string &path, FileOpenFlags flags, const DuckrunCalls &calls)
	    : FileHandle(system, path, flags), calls(calls) {
	}
	~Handle() override {
		Handle::Close();
	}

	void Close() override {
		if (file) {
			calls.close(file);
			file = nullptr;
		}
	}

	const DuckrunCalls calls;
	void *file = nullptr;
	uint64_t size = 0;
	int64_t modified = 0;
	// Of the reads without a position; DuckDB makes these from one thread at a time.
	uint64_t position = 0;
};

class Files final : public FileSystem {
public:
	Files(const DuckrunCalls &calls, void *files) : calls(calls), files(files) {
	}
	~Files() override {
		calls.release(files);
	}

	bool CanHandleFile(const string &path) override {
		return calls.handles(files, path.data(), path.size());
	}

	// Before any extension that would handle the same paths.
	bool IsManuallySet() override {
		return true;
	}

	unique_ptr<FileHandle> OpenFile(const string &path, FileOpenFlags flags, optional_ptr<FileOpener>) override {
		if (flags.OpenForWriting()) {
			throw PermissionException("%s cannot be written from SQL; a model writes tables", path);
		}
		auto handle = make_uniq<Handle>(*this, path, flags, calls);
		DuckrunFailure failure;
		failure.code = 0;
		handle->file = calls.open(files, path.data(), path.size(), &handle->size, &handle->modified, &failure);
		Check(failure);
		if (!handle->file) {
			if (flags.ReturnNullIfNotExists()) {
				return nullptr;
			}
			throw IOException("No file %s is registered", path);
		}
		return std::move(handle);
	}

	void Read(FileHandle &handle, void *buffer, int64_t count, idx_t location) override {
		auto &ours = handle.Cast<Handle>();
		DuckrunFailure failure;
		failure.code = 0;
		ours.calls.read_at(ours.file, static_cast<uint8_t *>(buffer), static_cast<uint64_t>(count), location, &failure);
		Check(failure);
	}

	int64_t Read(FileHandle &handle, void *buffer, int64_t count) override {
		auto &ours = handle.Cast<Handle>();
		DuckrunFailure failure;
		failure.code = 0;
		auto done = ours.calls.read_next(ours.file, static_cast<uint8_t *>(buffer), static_cast<uint64_t>(count),
		                                 ours.position, &failure);
		Check(failure);
		ours.position += done;
		return static_cast<int64_t>(done);
	}

	int64_t GetFileSize(FileHandle &handle) override {
		return static_cast<int64_t>(handle.Cast<Handle>().size);
	}
	timestamp_t GetLastModifiedTime(FileHandle &handle) override {
		return timestamp_t(handle.Cast<Handle>().modified);
	}
	FileType GetFileType(FileHandle &) override {
		return FileType::FILE_TYPE_REGULAR;
	}
	void Seek(FileHandle &handle, idx_t location) override {
		handle.Cast<Handle>().position = location;
	}
	idx_t SeekPosition(FileHandle &handle) override {
		return handle.Cast<Handle>().position;
	}
	bool CanSeek() override {
		return true;
	}
	// So that readers fetch wide ranges instead of single pages.
	bool OnDiskFile(FileHandle &) override {
		return false;
	}
	bool IsPipe(const string &, optional_ptr<FileOpener>) override {
		return false;
	}
	bool DirectoryExists(const string &, optional_ptr<FileOpener>) override {
		return false;
	}
	bool FileExists(const string &path, optional_ptr<FileOpener>) override {
		for (auto &found : Glob(path, nullptr)) {
			if (found.path == path) {
				return true;
			}
		}
		return false;
	}

	vector<OpenFileInfo> Glob(const string &path, FileOpener *) override {
		DuckrunFailure failure;
		failure.code = 0;
		void *list = calls.list(files, path.data(), path.size(), &failure);
		Check(failure);
		vector<OpenFileInfo> found;
		try {
			size_t length = 0;
			for (size_t index = 0;; index++) {
				auto name = calls.listed(list, index, &length);
				if (!name) {
					break;
				}
				found.emplace_back(string(name, length));
			}
		} catch (...) {
			calls.end_list(list);
			throw;
		}
		calls.end_list(list);
		return found;
	}

	string PathSeparator(const string &) override {
		return "/";
	}
	std::string GetName() const override {
		return NAME;
	}

private:
	const DuckrunCalls calls;
	void *files;
};

} // namespace

// Registers `files` with a database of the C API. Owns `files` from here on, whatever the answer.
bool duckrun_register_files(void *database, const DuckrunCalls *calls, void *files, DuckrunFailure *failure) {
	const char *what = "an unknown exception";
	try {
		auto system = duckdb::make_uniq<Files>(*calls, files);
		auto wrapper = reinterpret_cast<duckdb::DatabaseWrapper *>(database);
		wrapper->database->GetFileSystem().RegisterSubSystem(std::move(system));
		return true;
	} catch (std::exception &e) {
		what = e.what();
		failure->code = 1;
		auto length = std::min(std::strlen(what), sizeof(failure->text));
		std::memcpy(failure->text, what, length);
		failure->length = static_cast<uint32_t>(length);
	} catch (...) {
		failure->code = 1;
		auto length = std::strlen(what);
		std::memcpy(failure->text, what, length);
		failure->length = static_cast<uint32_t>(length);
	}
	return false;
}
