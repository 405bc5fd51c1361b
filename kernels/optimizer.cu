// Updates of the flat parameter buffer, each in one pass and in place, and the scale of the gradient.
// compile: REAL=float | REAL=double
//
// Thread mapping: a grid-stride loop over four contiguous parameters a thread, in vectorized loads and stores of 16
// bytes where all buffers are aligned (views into a flat buffer need not be). At most 512 thread blocks of 256, all of
// which are resident at once on a large GPU: what is the same for all parameters (bias corrections, decay of the
// average: powers and divisions in double) is computed by one thread a block, not by every thread.
// Bytes a parameter (float32): SGD 12, with momentum 20, Adam 28, average 12, norm 4. Operations: 5, 8, 14, 3, 2: bound
// by memory. The norm's squares are summed in double, in a fixed order: by blocks, then over them in gradient_scale.
//
// lr and step are numbers or lie on the device, so that a captured step can change them. A scale that is not finite:
// nothing changes.
//
// Considered: one parameter a thread (with enough warps as many bytes under way, but the corrections once for every 256
// parameters); the corrections in a launch of their own; norm and update in one cooperative launch (a barrier of the
// whole grid costs as much as a launch); update and average in one kernel (saves reading the parameters again, 4 of 40
// bytes, at the price of a kernel for each pair).
//
// In training steps on an H200: sgd_update with momentum 8.8 us for 779,018 parameters (15.6 MB), adam_update 4.1 us
// for 109,386, gradient_scale without a norm 1.6 us.

// Grid-stride loop over the vectors of four that n elements take, the last one perhaps incomplete.
#define FOR_EACH_VEC4(vec, n) \
    for (int vec = (int)global_index(); vec < (n) / 4 + ((n) % 4 != 0); vec += gridDim.x * blockDim.x)

// ---- norm of the gradient ------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(256)
    sums_of_squares(const real* __restrict__ grads, int n, double* __restrict__ partial) {
    __shared__ double scratch[32];
    const bool aligned = is_aligned(grads);
    double sum = 0;
    FOR_EACH_VEC4(vec, n) {
        const int first = 4 * vec, count = min(4, n - first);
        const Vec4<real> g = load_vec4(grads + first, count, aligned && count == 4);
#pragma unroll
        for (int k = 0; k < 4; ++k) sum += (double)g.at[k] * g.at[k];
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block. The scale is min(1, max_norm / (norm + 1e-6)), or 1 for max_norm 0 (then `count` is 0); NaN if the loss,
// of which one pointer is null, or the norm is not finite.
extern "C" __global__ void __launch_bounds__(256)
    gradient_scale(const double* partial, int count, const float* float_loss, const double* double_loss,
                   double max_norm, real* scale, real* norm) {
    __shared__ double scratch[32];
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x != 0) return;
    const double total = sqrt(sum), loss = float_loss ? *float_loss : *double_loss;
    const double factor = max_norm > 0 ? min(1.0, max_norm / (total + 1e-6)) : 1.0;
    *norm = real(total);
    *scale = isfinite(loss) && isfinite(*norm) ? real(factor) : real(__longlong_as_double(0x7ff8000000000000LL));
}

// ---- updates -------------------------------------------------------------------------------------------------------

// velocity may be null: no momentum. Weight decay is for the first `decay_size` parameters.
extern "C" __global__ void __launch_bounds__(256)
    sgd_update(real* __restrict__ params, const real* __restrict__ grads, real* __restrict__ velocity, int n,
               int decay_size, const double* lr_pointer, double lr, real momentum, int nesterov, real weight_decay,
               const real* scale_pointer, real scale) {
    const real factor = value_or(scale_pointer, scale), rate = real(value_or(lr_pointer, lr));
    if (!isfinite(factor)) return;
    const bool aligned = is_aligned(params) && is_aligned(grads) && is_aligned(velocity);
    FOR_EACH_VEC4(vec, n) {
        const int first = 4 * vec, count = min(4, n - first);
        const bool vectorized = aligned && count == 4;
        Vec4<real> p = load_vec4(params + first, count, vectorized), v = {};
        const Vec4<real> g = load_vec4(grads + first, count, vectorized);
        if (velocity) v = load_vec4(velocity + first, count, vectorized);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const real decay = first + k < decay_size ? weight_decay : real(0);
            const real gradient = factor * g.at[k] + decay * p.at[k];
            v.at[k] = momentum * v.at[k] + gradient;  // without momentum, the gradient
            p.at[k] -= rate * (nesterov ? gradient + momentum * v.at[k] : v.at[k]);
        }
        if (velocity) store_vec4(velocity + first, v, count, vectorized);
        store_vec4(params + first, p, count, vectorized);
    }
}

// What is the same for all parameters in a step of Adam, computed in double: 1 - 0.999 would lose digits in float.
struct AdamStep {
    real beta1, rest1, beta2, rest2, root, eps, rate, decay, keep;
};

__device__ __forceinline__ AdamStep adam_step(double lr, double t, double beta1, double beta2, double eps,
                                              double weight_decay, bool decoupled) {
    AdamStep step;
    step.beta1 = real(beta1);
    step.rest1 = real(1 - beta1);
    step.beta2 = real(beta2);
    step.rest2 = real(1 - beta2);
    step.root = real(1 / sqrt(1 - pow(beta2, t)));
    step.eps = real(eps);
    step.rate = real(lr / (1 - pow(beta1, t)));
    step.decay = decoupled ? real(0) : real(weight_decay);
    step.keep = decoupled ? real(1 - lr * weight_decay) : real(1);
    return step;
}

extern "C" __global__ void __launch_bounds__(256)
    adam_update(real* __restrict__ params, const real* __restrict__ grads, real* __restrict__ moment1,
                real* __restrict__ moment2, int n, int decay_size, const double* lr_pointer, double lr,
                const long long* step_pointer, double step, double beta1, double beta2, double eps, double weight_decay,
                int decoupled, const real* scale_pointer, real scale) {
    __shared__ AdamStep shared_step;
    const real factor = value_or(scale_pointer, scale);
    if (!isfinite(factor)) return;
    if (threadIdx.x == 0) {
        const double t = step_pointer ? (double)*step_pointer : step;
        shared_step = adam_step(value_or(lr_pointer, lr), t, beta1, beta2, eps, weight_decay, decoupled);
    }
    __syncthreads();
    const AdamStep s = shared_step;
    const bool aligned = is_aligned(params) && is_aligned(grads) && is_aligned(moment1) && is_aligned(moment2);
    FOR_EACH_VEC4(vec, n) {
        const int first = 4 * vec, count = min(4, n - first);
        const bool vectorized = aligned && count == 4;
        Vec4<real> p = load_vec4(params + first, count, vectorized), m = load_vec4(moment1 + first, count, vectorized);
        Vec4<real> v = load_vec4(moment2 + first, count, vectorized);
        const Vec4<real> g = load_vec4(grads + first, count, vectorized);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const bool decays = first + k < decay_size;
            const real gradient = factor * g.at[k] + (decays ? s.decay : real(0)) * p.at[k];
            m.at[k] = s.beta1 * m.at[k] + s.rest1 * gradient;
            v.at[k] = s.beta2 * v.at[k] + s.rest2 * (gradient * gradient);
            const real change = s.rate * (m.at[k] / (sqrt(v.at[k]) * s.root + s.eps));
            p.at[k] = (decays ? s.keep : real(1)) * p.at[k] - change;
        }
        store_vec4(moment1 + first, m, count, vectorized);
        store_vec4(moment2 + first, v, count, vectorized);
        store_vec4(params + first, p, count, vectorized);
    }
}

// Decay is min(decay, (1 + t) / (10 + t)) for a step t of at least 0; a negative one stands for none.
extern "C" __global__ void __launch_bounds__(256)
    ema_update(real* __restrict__ average, const real* __restrict__ values, int n, double decay,
               const long long* step_pointer, double step) {
    __shared__ real factors[2];
    if (threadIdx.x == 0) {
        const double t = step_pointer ? (double)*step_pointer : step;
        const double kept = t < 0 ? decay : min(decay, (1 + t) / (10 + t));
        factors[0] = real(kept);
        factors[1] = real(1 - kept);
    }
    __syncthreads();
    const real keep = factors[0], rest = factors[1];
    const bool aligned = is_aligned(average) && is_aligned(values);
    FOR_EACH_VEC4(vec, n) {
        const int first = 4 * vec, count = min(4, n - first);
        const bool vectorized = aligned && count == 4;
        Vec4<real> a = load_vec4(average + first, count, vectorized);
        const Vec4<real> b = load_vec4(values + first, count, vectorized);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            // The smaller factor goes to the difference (torch.lerp's rule): decay 0 gives `values` and 1 `average`.
            const real difference = b.at[k] - a.at[k];
            a.at[k] = rest < keep ? a.at[k] + rest * difference : b.at[k] - keep * difference;
        }
        store_vec4(average + first, a, count, vectorized);
    }
}
