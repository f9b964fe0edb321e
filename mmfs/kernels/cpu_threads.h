// Work shared between threads, and the memory that a thread keeps from one piece of work to the next.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
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

// Where the threads of a call come from.
class Workers {
   public:
    virtual ~Workers() = default;
    // Calls work(), which does not throw, on this thread and up to num_threads - 1 others; returns when all returned.
    virtual void run(int64_t num_threads, const std::function<void()>& work) const = 0;
};

// Threads that are started for each call: those of a pool would be missing in the child of a fork.
class NewThreads final : public Workers {
   public:
    void run(int64_t num_threads, const std::function<void()>& work) const override {
        std::vector<std::thread> others;
        for (int64_t i = 1; i < num_threads; ++i) {
            try {
                others.emplace_back(work);
            } catch (const std::system_error&) {
                break;  // no more threads can be started: those that run do the work
            }
        }
        work();
        for (std::thread& thread : others) {
            thread.join();
        }
    }
};

// Calls work(piece, thread's own memory) for every piece, on at most num_threads threads of the workers.
template <typename Piece, typename MakeMemory, typename Work>
void parallel_for(
    const Workers& workers, const std::vector<Piece>& pieces, int64_t num_threads, const MakeMemory& make_memory,
    const Work& work
) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex failing;
    const auto run = [&] {
        try {
            std::size_t i = next++;
            if (i >= pieces.size()) {
                return;
            }
            auto memory = make_memory();
            for (; i < pieces.size(); i = next++) {
                work(pieces[i], memory);
            }
        } catch (...) {
            const std::lock_guard<std::mutex> lock(failing);
            failure = std::current_exception();
            next = pieces.size();
        }
    };
    const int64_t wanted = std::min(num_threads, static_cast<int64_t>(pieces.size()));
    if (wanted > 1) {
        workers.run(wanted, run);
    } else {
        run();
    }
    if (failure) {
        std::rethrow_exception(failure);
    }
}

}  // namespace mmfs
