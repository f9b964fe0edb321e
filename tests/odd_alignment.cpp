// A CPU allocator for PyTorch whose tensors do not begin at multiples of 64 bytes, as those of its own do, but at
// multiples of 8: the next one elsewhere than the last. Tensors in mapped files and in memory of other libraries begin
// anywhere; with this one, all do. tests/alignment.py compiles and loads it.

#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

constexpr std::size_t LINE = 64;
constexpr std::size_t STEP = 8;  // what every type of number needs

// What malloc gave stands before the tensor, so that no table is needed.
void release(void* tensor) {
    if (tensor == nullptr) return;
    void* allocated;
    std::memcpy(&allocated, static_cast<char*>(tensor) - sizeof(void*), sizeof(void*));
    std::free(allocated);
}

class OddAllocator final : public c10::Allocator {
  public:
    c10::DataPtr allocate(std::size_t num_bytes) override {
        const c10::Device device(c10::kCPU);
        if (num_bytes == 0) return {nullptr, nullptr, &release, device};
        void* allocated = nullptr;
        if (posix_memalign(&allocated, LINE, num_bytes + 2 * LINE) != 0) throw std::bad_alloc();
        const uint32_t mixed = number_++ * 2654435761u;
        char* tensor = static_cast<char*>(allocated) + LINE + (mixed >> 16) % (LINE / STEP) * STEP;
        std::memcpy(tensor - sizeof(void*), &allocated, sizeof(void*));
        return {tensor, tensor, &release, device};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &release; }

    void copy_data(void* to, const void* from, std::size_t num_bytes) const override {
        default_copy_data(to, from, num_bytes);
    }

  private:
    std::atomic<uint32_t> number_{1};
};

OddAllocator allocator;

}  // namespace

extern "C" void begin_anywhere() { c10::SetCPUAllocator(&allocator, 100); }
