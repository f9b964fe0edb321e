// The samples that one head of one query takes of one image: placed several at once, without branches.
//
// Letters: L levels, P points. A bag is one head of one query.

#pragma once

#include "cpu_bank.h"

namespace mmfs {

// As many whole numbers as a vector has lanes; what comparing two vectors gives.
template <typename W>
using Integers = decltype(Vector<W>{} < Vector<W>{});
template <typename W>
using Integer = std::remove_reference_t<decltype(std::declval<Integers<W>&>()[0])>;

// Four whole numbers that hold addresses.
typedef int64_t Int4 __attribute__((vector_size(32)));
static_assert(sizeof(void*) == sizeof(int64_t), "mmfs computes with addresses of 8 bytes");

template <typename W>
constexpr int64_t QUARTETS = LANES<W> / 4;  // of the lanes of a vector

// Four neighbouring lanes as whole numbers of 8 bytes.
inline Int4 quartet(const Integers<double>& vector, int64_t) { return vector; }
inline Int4 quartet(const Integers<float>& vector, int64_t which) {
#ifdef MMFS_AVX2
    const __m256i lanes = (__m256i)vector;
    return (Int4)_mm256_cvtepi32_epi64(which == 0 ? _mm256_castsi256_si128(lanes) : _mm256_extracti128_si256(lanes, 1));
#else
    return Int4{vector[4 * which], vector[4 * which + 1], vector[4 * which + 2], vector[4 * which + 3]};
#endif
}

// What the samples of a vector have for each corner, sample by sample. T: a number or an address, of 4 or 8 bytes.
template <typename VectorOfT, typename T>
inline void by_sample(const VectorOfT of_corner[NUM_CORNERS], T (*of_sample)[NUM_CORNERS]) {
#ifdef MMFS_AVX2
    if constexpr (sizeof(T) == 8) {
        const __m256i upper_left = (__m256i)of_corner[0], upper_right = (__m256i)of_corner[1];
        const __m256i lower_left = (__m256i)of_corner[2], lower_right = (__m256i)of_corner[3];
        const __m256i upper_even = _mm256_unpacklo_epi64(upper_left, upper_right);
        const __m256i upper_odd = _mm256_unpackhi_epi64(upper_left, upper_right);
        const __m256i lower_even = _mm256_unpacklo_epi64(lower_left, lower_right);
        const __m256i lower_odd = _mm256_unpackhi_epi64(lower_left, lower_right);
        const __m256i samples[4] = {
            _mm256_permute2x128_si256(upper_even, lower_even, 0x20),
            _mm256_permute2x128_si256(upper_odd, lower_odd, 0x20),
            _mm256_permute2x128_si256(upper_even, lower_even, 0x31),
            _mm256_permute2x128_si256(upper_odd, lower_odd, 0x31),
        };
        std::memcpy(of_sample, samples, sizeof(samples));
    } else {
        const __m256 upper_low = _mm256_unpacklo_ps(of_corner[0], of_corner[1]);
        const __m256 upper_high = _mm256_unpackhi_ps(of_corner[0], of_corner[1]);
        const __m256 lower_low = _mm256_unpacklo_ps(of_corner[2], of_corner[3]);
        const __m256 lower_high = _mm256_unpackhi_ps(of_corner[2], of_corner[3]);
        const __m256 samples[4] = {  // each with the one four further on
            _mm256_shuffle_ps(upper_low, lower_low, 0x44), _mm256_shuffle_ps(upper_low, lower_low, 0xEE),
            _mm256_shuffle_ps(upper_high, lower_high, 0x44), _mm256_shuffle_ps(upper_high, lower_high, 0xEE)
        };
        for (int k = 0; k < 4; ++k) {
            _mm_storeu_ps(of_sample[k], _mm256_castps256_ps128(samples[k]));
            _mm_storeu_ps(of_sample[k + 4], _mm256_extractf128_ps(samples[k], 1));
        }
    }
#else
    for (std::size_t sample = 0; sample < sizeof(VectorOfT) / sizeof(T); ++sample) {
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            of_sample[sample][corner] = of_corner[corner][sample];
        }
    }
#endif
}

// The sizes of the levels of an image, once for each of its L * P samples, padded with zeros to whole vectors.
template <typename W>
class LevelOfSample {
   public:
    LevelOfSample(int64_t num_levels, int64_t num_points)
        : num_levels_(num_levels), num_points_(num_points), planes_(static_cast<std::size_t>(num_levels)) {
        const int64_t size = padded<W>(num_levels * num_points);
        std::fill_n(widths_.reserve(size), size, W(0));
        std::fill_n(heights_.reserve(size), size, W(0));
        std::fill_n(columns_.reserve(size), size, Integer<W>(0));
        std::fill_n(rows_.reserve(size), size, Integer<W>(0));
        std::fill_n(first_pixels_.reserve(size), size, int64_t(0));
    }

    int64_t num_levels() const { return num_levels_; }
    int64_t num_points() const { return num_points_; }

    // From now on, levels of these sizes. Of most banks all images have the same.
    void set(const Plane* planes) {
        for (int64_t level = 0; level < num_levels_; ++level) {
            const Plane& plane = planes[level];
            Known& known = planes_[static_cast<std::size_t>(level)];
            const int64_t first_pixel = plane.first_pixel - planes->first_pixel;
            if (plane.height != known.height || plane.width != known.width || first_pixel != known.first_pixel) {
                known = {plane.height, plane.width, first_pixel};
                std::fill_n(widths_.data() + level * num_points_, num_points_, static_cast<W>(plane.width));
                std::fill_n(heights_.data() + level * num_points_, num_points_, static_cast<W>(plane.height));
                std::fill_n(columns_.data() + level * num_points_, num_points_, static_cast<Integer<W>>(plane.width));
                std::fill_n(rows_.data() + level * num_points_, num_points_, static_cast<Integer<W>>(plane.height));
                std::fill_n(first_pixels_.data() + level * num_points_, num_points_, first_pixel);
            }
        }
    }

    // Of the samples of a vector that begins with sample k.
    Vector<W> widths(int64_t k) const { return load(widths_.data() + k); }
    Vector<W> heights(int64_t k) const { return load(heights_.data() + k); }
    Integers<W> columns(int64_t k) const { return load_integers(columns_.data() + k); }
    Integers<W> rows(int64_t k) const { return load_integers(rows_.data() + k); }
    const int64_t* first_pixels(int64_t k) const { return first_pixels_.data() + k; }  // of the levels, in the image

   private:
    struct Known {
        int height = 0;
        int width = 0;
        int64_t first_pixel = 0;
    };

    static Integers<W> load_integers(const Integer<W>* from) {
        Integers<W> vector;
        std::memcpy(&vector, from, sizeof(vector));
        return vector;
    }

    int64_t num_levels_;
    int64_t num_points_;
    std::vector<Known> planes_;
    Buffer<W> widths_;
    Buffer<W> heights_;
    Buffer<Integer<W>> columns_;
    Buffer<Integer<W>> rows_;
    Buffer<int64_t> first_pixels_;
};

// place_sample() of sampling.h for a vector of samples: the same operations, so the same numbers.
template <typename W>
struct PlacedVector {
    Integers<W> inside;  // all bits where a sample touches a pixel, else 0; so are those of `touched`
    Integers<W> first;   // row * width + column of the upper left pixel, which may be outside of the level
    Integers<W> touched[NUM_CORNERS];
    Vector<W> share[NUM_CORNERS];
    Vector<W> right;
    Vector<W> below;

    PlacedVector(
        Vector<W> x, Vector<W> y, Vector<W> width, Vector<W> height, Integers<W> num_columns, Integers<W> num_rows
    ) {
        Vector<W> column = x * width - W(0.5);
        Vector<W> row = y * height - W(0.5);
        inside = (column > W(-1)) & (column < width) & (row > W(-1)) & (row < height);
        column = inside ? column : Vector<W>{};  // a number that fits an integer
        row = inside ? row : Vector<W>{};
        const Integers<W> left = floor_of_each(column), upper = floor_of_each(row);
        const Vector<W> left_edge = __builtin_convertvector(left, Vector<W>);
        const Vector<W> upper_edge = __builtin_convertvector(upper, Vector<W>);
        right = column - left_edge;
        below = row - upper_edge;
        const Vector<W> to_right = left_edge + W(1) - column;
        const Vector<W> to_lower = upper_edge + W(1) - row;
        const Integers<W> left_in = inside & (left >= 0), right_in = inside & (left + 1 < num_columns);
        const Integers<W> upper_in = upper >= 0, lower_in = upper + 1 < num_rows;
        first = upper * num_columns + left;
        touched[UPPER_LEFT] = left_in & upper_in;
        touched[UPPER_RIGHT] = right_in & upper_in;
        touched[LOWER_LEFT] = left_in & lower_in;
        touched[LOWER_RIGHT] = right_in & lower_in;
        share[UPPER_LEFT] = touched[UPPER_LEFT] ? to_right * to_lower : Vector<W>{};
        share[UPPER_RIGHT] = touched[UPPER_RIGHT] ? right * to_lower : Vector<W>{};
        share[LOWER_LEFT] = touched[LOWER_LEFT] ? to_right * below : Vector<W>{};
        share[LOWER_RIGHT] = touched[LOWER_RIGHT] ? right * below : Vector<W>{};
    }

    static Integers<W> floor_of_each(Vector<W> x) {
        const Integers<W> towards_zero = __builtin_convertvector(x, Integers<W>);
        return towards_zero + (__builtin_convertvector(towards_zero, Vector<W>) > x);  // a comparison that holds is -1
    }
};

// The rows of the four corners of samples, as addresses. Corners outside of a level, which come unforeseen, have
// another row, without a branch.
template <typename R>
class CornerRows {
   public:
    CornerRows() = default;
    CornerRows(const DirectRows<R>& rows, int64_t first_pixel_of_image, R* other)
        : other_(reinterpret_cast<int64_t>(other)),
          from_other_(static_cast<int64_t>(
              reinterpret_cast<std::uintptr_t>(rows.first) - reinterpret_cast<std::uintptr_t>(other) +
              static_cast<std::uintptr_t>(rows.offset(first_pixel_of_image)) * sizeof(R)
          )),
          stride_(rows.stride * static_cast<int64_t>(sizeof(R))) {}

    // Of the samples of a vector: an address for each corner.
    template <typename W>
    void of(
        const PlacedVector<W>& placed, Integers<W> num_columns, const int64_t* first_pixels,
        int64_t (*of_sample)[NUM_CORNERS]
    ) const {
        for (int64_t which = 0; which < QUARTETS<W>; ++which) {
            Int4 first_pixel;
            std::memcpy(&first_pixel, first_pixels + 4 * which, sizeof(first_pixel));
            const Int4 upper_left = (first_pixel + quartet(placed.first, which)) * stride_ + from_other_;
            const Int4 lower_left = upper_left + quartet(num_columns, which) * stride_;
            Int4 of_corner[NUM_CORNERS];
            of_corner[UPPER_LEFT] = upper_left;
            of_corner[UPPER_RIGHT] = upper_left + stride_;
            of_corner[LOWER_LEFT] = lower_left;
            of_corner[LOWER_RIGHT] = lower_left + stride_;
            for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                of_corner[corner] = (of_corner[corner] & quartet(placed.touched[corner], which)) + other_;
            }
            by_sample(of_corner, of_sample + 4 * which);
        }
    }

   private:
    int64_t other_ = 0;
    int64_t from_other_ = 0;  // to the first pixel of the image
    int64_t stride_ = 0;
};

// The samples of a bag in one image that touch a pixel. The working memory of a thread.
template <typename S, typename W>
class BagSamples {
   public:
    BagSamples(int64_t num_levels, int64_t num_points) : levels_(num_levels, num_points) {
        const int64_t count = num_levels * num_points, size = padded<W>(count);
        std::fill_n(x_.reserve(size), size, W(0));
        std::fill_n(y_.reserve(size), size, W(0));
        std::fill_n(weights_.reserve(size), size, W(0));
        rows_.reserve(count);
        samples_.reserve(count);
        indices_.reserve(count);
    }

    // To be written before place(), in units of the image: [L * P].
    W* x() { return x_.data(); }
    W* y() { return y_.data(); }
    W* weights() { return weights_.data(); }

    int64_t count() const { return count_; }
    const SampleRows<Row<S, W>, W>* rows() const { return rows_.data(); }
    const Sample<W>& sample(int64_t i) const { return samples_.data()[i]; }  // without its pixels
    int64_t index(int64_t i) const { return indices_.data()[i]; }            // which of the L * P; with BACKWARD

    // planes: [L], of the image. With gradient null, none of value is wanted. Only with BACKWARD there are samples.
    template <bool BACKWARD>
    void place(const Plane* planes, HeadRows<S, W>& rows, const HeadGradient<W>* gradient) {
        levels_.set(planes);
        rows.next_samples();
        if (rows.is_staged()) {
            place<BACKWARD, true>(planes, rows, gradient);
        } else {
            place<BACKWARD, false>(planes, rows, gradient);
        }
    }

   private:
    template <bool BACKWARD, bool STAGED>
    void place(const Plane* planes, HeadRows<S, W>& head, const HeadGradient<W>* gradient) {
        // Local copies: a compiler cannot know that what is written below does not change the members.
        const int64_t size = levels_.num_levels() * levels_.num_points();
        const W *x = x_.data(), *y = y_.data(), *all_weights = weights_.data();
        SampleRows<Row<S, W>, W>* rows = rows_.data();
        Sample<W>* samples = samples_.data();
        int64_t* indices = indices_.data();
        int64_t count = 0;
        const int64_t first_pixel = planes->first_pixel;
        const CornerRows<const Row<S, W>> corner_rows(head.direct(), first_pixel, head.zeros());
        CornerRows<W> corner_gradients;
        if (BACKWARD && gradient != nullptr) {
            corner_gradients = {gradient->direct(), first_pixel, gradient->unused_row()};
        }
        for (int64_t k = 0; k < size; k += LANES<W>) {
            const Integers<W> num_columns = levels_.columns(k);
            const PlacedVector<W> placed(
                load(x + k), load(y + k), levels_.widths(k), levels_.heights(k), num_columns, levels_.rows(k)
            );
            const Vector<W> weights = load(all_weights + k);
            Vector<W> factor[NUM_CORNERS];
            for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                factor[corner] = weights * placed.share[corner];
            }
            W factors[LANES<W>][NUM_CORNERS], shares[LANES<W>][NUM_CORNERS];
            by_sample(factor, factors);
            alignas(32) int64_t addresses[LANES<W>][NUM_CORNERS], gradients[LANES<W>][NUM_CORNERS];
            if constexpr (!STAGED) {
                corner_rows.of(placed, num_columns, levels_.first_pixels(k), addresses);
            }
            if constexpr (BACKWARD) {
                by_sample(placed.share, shares);
                if (gradient != nullptr) {
                    corner_gradients.of(placed, num_columns, levels_.first_pixels(k), gradients);
                }
            }
            const int64_t num_here = std::min(LANES<W>, size - k);
            for (int64_t lane = 0; lane < num_here; ++lane) {
                // What is outside is overwritten by the next one: to go around it would be a branch that is hard to
                // foresee.
                SampleRows<Row<S, W>, W>& here = rows[count];
                if constexpr (STAGED) {
                    const int64_t first = first_pixel + levels_.first_pixels(k)[lane] + placed.first[lane];
                    const int64_t pixel[NUM_CORNERS] = {
                        first, first + 1, first + num_columns[lane], first + num_columns[lane] + 1
                    };
                    for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                        here.row[corner] =
                            placed.touched[corner][lane] != 0 ? head.staged_row(pixel[corner]) : head.zeros();
                    }
                } else {
                    std::memcpy(here.row, addresses[lane], sizeof(here.row));
                }
                std::memcpy(here.factor, factors[lane], sizeof(here.factor));
                if constexpr (BACKWARD) {
                    if (gradient != nullptr) {
                        std::memcpy(here.grad, gradients[lane], sizeof(here.grad));
                    }
                    Sample<W>& sample = samples[count];
                    std::memcpy(sample.share, shares[lane], sizeof(sample.share));
                    sample.right = placed.right[lane];
                    sample.below = placed.below[lane];
                    indices[count] = k + lane;
                }
                count += placed.inside[lane] != 0;
            }
        }
        count_ = count;
    }

    LevelOfSample<W> levels_;
    Buffer<W> x_;
    Buffer<W> y_;
    Buffer<W> weights_;
    Buffer<SampleRows<Row<S, W>, W>> rows_;
    Buffer<Sample<W>> samples_;
    Buffer<int64_t> indices_;
    int64_t count_ = 0;
};

}  // namespace mmfs
