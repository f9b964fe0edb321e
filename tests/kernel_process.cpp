// Calls the compiled CPU kernel for a process that cannot load it itself, because it is built for another processor.
// tests/kernel_process.py is the other end of standard input and output.
//
// A call: Request, the structure, and for each array an Array and, unless it is a result, its bytes. Without a structure
// the function takes nothing. The answer: the function's int32, then the bytes of the results.

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

struct Request {
    char function[64];
    int64_t structure_bytes;
    int64_t num_arrays;
};

struct Array {
    int64_t member;  // of the structure: the byte at which the pointer lies
    int64_t bytes;
    int64_t address;  // in the other process; the copy begins as far behind a cache line
    int64_t is_result;
};

constexpr int64_t LINE = 64;

static void read_all(void* to, int64_t bytes) {
    if (bytes > 0 && std::fread(to, static_cast<std::size_t>(bytes), 1, stdin) != 1) {
        std::exit(std::feof(stdin) ? 0 : 1);
    }
}

static void write_all(const void* from, int64_t bytes) {
    if (bytes > 0 && std::fwrite(from, static_cast<std::size_t>(bytes), 1, stdout) != 1) {
        std::exit(1);
    }
}

int main(int count, char** arguments) {
    void* library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : nullptr;
    if (library == nullptr) {
        std::fprintf(stderr, "%s\n", count == 2 ? dlerror() : "usage: kernel_process LIBRARY");
        return 2;
    }
    for (;;) {
        Request request;
        read_all(&request, sizeof(request));
        void* function = dlsym(library, request.function);
        if (function == nullptr) {
            std::fprintf(stderr, "the library has no %s\n", request.function);
            return 2;
        }
        if (request.structure_bytes == 0) {
            const int32_t result = reinterpret_cast<int32_t (*)()>(function)();
            write_all(&result, sizeof(result));
            std::fflush(stdout);
            continue;
        }
        std::vector<int64_t> structure(static_cast<std::size_t>(request.structure_bytes) / sizeof(int64_t));
        read_all(structure.data(), request.structure_bytes);
        std::vector<Array> arrays(static_cast<std::size_t>(request.num_arrays));
        std::vector<char*> copies, memory;
        for (Array& array : arrays) {
            read_all(&array, sizeof(array));
            const int64_t bytes = (array.bytes + 2 * LINE - 1) / LINE * LINE;
            memory.push_back(static_cast<char*>(std::aligned_alloc(LINE, static_cast<std::size_t>(bytes))));
            copies.push_back(memory.back() + array.address % LINE);
            if (array.is_result) {
                std::memset(copies.back(), 0xFF, static_cast<std::size_t>(array.bytes));  // NaN, to see what is written
            } else {
                read_all(copies.back(), array.bytes);
            }
            std::memcpy(reinterpret_cast<char*>(structure.data()) + array.member, &copies.back(), sizeof(char*));
        }
        const int32_t status = reinterpret_cast<int32_t (*)(const void*)>(function)(structure.data());
        write_all(&status, sizeof(status));
        for (std::size_t i = 0; i < arrays.size(); ++i) {
            if (arrays[i].is_result) {
                write_all(copies[i], arrays[i].bytes);
            }
            std::free(memory[i]);
        }
        std::fflush(stdout);
    }
}
