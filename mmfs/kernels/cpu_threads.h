// Work shared between threads, and the memory that a thread keeps from one piece of work to the next.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace mmfs {

// Memory that only grows and is aligned to a cache line. Growing it loses its contents.
template <typename T>
class Buffer {
   public:
    T* reserve(int64_t count) {
        if (count > capacity_) {
            data_.reset();
            capacity_ = 0;
            const std::size_t line = 64;
            const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + line - 1) / line * line;
            data_.reset(static_cast<T*>(std::aligned_alloc(line, bytes)));
            if (!data_) {
                throw std::bad_alloc();
            }
            capacity_ = count;
        }
        return data_.get();
    }

    T* data() const { return data_.get(); }

   private:
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };
    std::unique_ptr<T, Free> data_;
    int64_t capacity_ = 0;
};

// Calls work(piece, thread's own memory) for every piece, on this thread and num_threads - 1 more. They are started
// for each call: the threads of a pool would be missing in the child of a fork.
template <typename Piece, typename MakeMemory, typename Work>
void parallel_for(
    const std::vector<Piece>& pieces, int64_t num_threads, const MakeMemory& make_memory, const Work& work
) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex failing;
    const auto run = [&] {
        try {
            auto memory = make_memory();
            for (std::size_t i = next++; i < pieces.size(); i = next++) {
                work(pieces[i], memory);
            }
        } catch (...) {
            const std::lock_guard<std::mutex> lock(failing);
            failure = std::current_exception();
            next = pieces.size();
        }
    };
    std::vector<std::thread> others;
    for (std::size_t i = 1; i < std::min(static_cast<std::size_t>(num_threads), pieces.size()); ++i) {
        try {
            others.emplace_back(run);
        } catch (const std::system_error&) {
            break;  // no more threads can be started: those that run do the work
        }
    }
    run();
    for (std::thread& thread : others) {
        thread.join();
    }
    if (failure) {
        std::rethrow_exception(failure);
    }
}

}  // namespace mmfs
